// What futex_wait_any asks of the system.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "platform/futex.hpp"

namespace ringcast::platform {

// Until `deadline_ns` on the monotonic clock. Nothing if the system cannot wait for many words.
std::optional<WaitedForAny> wait_for_any(std::atomic<std::uint32_t>* const* words, std::uint32_t count,
                                         std::uint32_t expected, std::int64_t deadline_ns) noexcept;

}  // namespace ringcast::platform
