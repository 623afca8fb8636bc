// macOS cannot make a private mapping forget what was written to it, so there are none: what would use one copies.
#include "platform/private_pages.hpp"

namespace ringcast::platform {

bool discard_written(void*, std::uint64_t) noexcept { return true; }
std::optional<std::uint64_t> page_faults() noexcept { return std::nullopt; }

}  // namespace ringcast::platform
