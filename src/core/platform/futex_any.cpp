// Waiting for many words, by the system or, where it cannot, by looking again and again.
#include "platform/futex_any.hpp"

#include <algorithm>
#include <limits>

#include "platform/clock.hpp"

namespace ringcast::platform {

namespace {

constexpr std::int64_t kFirstNapNs = 50'000;
constexpr std::int64_t kLongestNapNs = 2'000'000;  // under one percent of a CPU

std::atomic<bool> system_cannot{false};

bool all_hold(std::atomic<std::uint32_t>* const* words, std::uint32_t count, std::uint32_t expected) noexcept {
    return std::all_of(words, words + count,
                       [&](const auto* word) { return word->load(std::memory_order_relaxed) == expected; });
}

}  // namespace

bool can_wait_for_any() noexcept {
    if (system_cannot.load(std::memory_order_relaxed)) return false;
    std::atomic<std::uint32_t> word{0};
    std::atomic<std::uint32_t>* const words[] = {&word};
    return wait_for_any(words, 1, 1, 0).has_value();
}

WaitedForAny futex_wait_any(std::atomic<std::uint32_t>* const* words, std::uint32_t count, std::uint32_t expected,
                            std::int64_t timeout_ns) noexcept {
    const std::int64_t now = monotonic_ns();
    const std::int64_t most = std::numeric_limits<std::int64_t>::max();
    const std::int64_t deadline = timeout_ns >= most - now ? most : now + timeout_ns;
    if (!system_cannot.load(std::memory_order_relaxed)) {
        if (const auto result = wait_for_any(words, count, expected, deadline)) return *result;
        system_cannot.store(true, std::memory_order_relaxed);
    }
    // Naps are slept on the first word: who wakes by that is not kept waiting.
    for (std::int64_t nap = kFirstNapNs; all_hold(words, count, expected); nap = std::min(2 * nap, kLongestNapNs)) {
        const std::int64_t left = deadline - monotonic_ns();
        if (left <= 0) return {FutexResult::timed_out};
        const FutexResult result = futex_wait(*words[0], expected, std::min(nap, left));
        if (result == FutexResult::interrupted) return {result};
    }
    return {FutexResult::woken};
}

}  // namespace ringcast::platform
