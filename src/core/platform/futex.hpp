// Sleeping on a 32-bit word of shared memory, and waking who sleeps there.
// The word may be mapped at different addresses in different processes.
#pragma once

#include <atomic>
#include <cstdint>

namespace ringcast::platform {

enum class FutexResult {
    woken,        // somebody woke us, or the word no longer held `expected`
    timed_out,    // `timeout_ns` passed
    interrupted,  // a signal arrived: the caller looks at its conditions
};

FutexResult futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::int64_t timeout_ns) noexcept;
void futex_wake_all(std::atomic<std::uint32_t>& word) noexcept;

}  // namespace ringcast::platform
