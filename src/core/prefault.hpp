// Touches all pages of shared memory, so that nobody waits for the kernel at their first use.
#pragma once

#include <cstddef>
#include <cstdint>

#include "progress.hpp"

namespace ringcast {

// By several threads; the caller waits, and tells `progress` while they work. The range is mapped writable and reserved; its
// bytes stay what they are, and others may read and write them meanwhile. Throws what `progress` throws, once the threads
// have ended, and std::system_error if no thread can be had.
void prefault(std::byte* begin, std::uint64_t bytes, const Progress& progress);

}  // namespace ringcast
