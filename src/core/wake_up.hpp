// What the kernel takes to wake an end that sleeps: measured with the ends' own handshake, between two threads.
#pragma once

#include <cstdint>
#include <vector>

namespace ringcast {

// So many times, after the sleeper has slept for about `pause_ns`: from just before the waker's system call until the sleeper
// runs. Fewer, if the sleeper was not asleep. Throws std::system_error if no thread can be had.
std::vector<std::int64_t> measure_wake_ups(std::uint32_t count, std::int64_t pause_ns);

}  // namespace ringcast
