// Private, writable mappings of a shared file: making the kernel forget what this process has written to them.
//
// A page that was written shows this process's bytes for ever, whatever the file gets. Which pages those are, only the
// page map knows; dropping pages that were only read would cost their faults again.
#pragma once

#include <cstdint>
#include <optional>

namespace ringcast::platform {

// What was written to [address, address + bytes), whole pages of a private mapping, is forgotten: it shows the file's
// bytes again. False if the system refuses, as it does for memory that is locked (mlockall).
bool discard_written(void* address, std::uint64_t bytes) noexcept;

// How many page faults this process has had. As long as there is none, it writes to no page of a private mapping that it
// has not written to before. Nothing where the system does not count them.
std::optional<std::uint64_t> page_faults() noexcept;

}  // namespace ringcast::platform
