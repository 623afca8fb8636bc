// Sleeping on 32-bit words of shared memory, and waking who sleeps there.
// A word may be mapped at different addresses in different processes.
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
// The same on any of `count` words at once, at most kMostFutexes, which all should hold `expected`. Where the system cannot
// do that (Linux before 5.16, some sandboxes, macOS), this looks at them between short naps.
inline constexpr std::uint32_t kMostFutexes = 128;
inline constexpr std::uint32_t kWhichever = kMostFutexes;
struct WaitedForAny {
    FutexResult result;
    std::uint32_t word = kWhichever;  // on which somebody woke us, maybe one of several, where the system says so
};
WaitedForAny futex_wait_any(std::atomic<std::uint32_t>* const* words, std::uint32_t count, std::uint32_t expected,
                            std::int64_t timeout_ns) noexcept;
bool can_wait_for_any() noexcept;

void futex_wake_all(std::atomic<std::uint32_t>& word) noexcept;

}  // namespace ringcast::platform
