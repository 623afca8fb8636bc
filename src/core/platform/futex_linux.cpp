// Linux: the futex system call, shared between processes (no FUTEX_PRIVATE_FLAG).
#include "platform/futex.hpp"
#include "platform/futex_any.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cerrno>
#include <climits>
#include <ctime>
#include <optional>

namespace ringcast::platform {

static_assert(sizeof(std::atomic<std::uint32_t>) == 4 && std::atomic<std::uint32_t>::is_always_lock_free);

FutexResult futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::int64_t timeout_ns) noexcept {
    const timespec timeout{.tv_sec = timeout_ns / 1'000'000'000, .tv_nsec = timeout_ns % 1'000'000'000};
    if (syscall(SYS_futex, &word, FUTEX_WAIT, expected, &timeout, nullptr, 0) == 0) return FutexResult::woken;
    if (errno == ETIMEDOUT) return FutexResult::timed_out;
    if (errno == EINTR) return FutexResult::interrupted;
    return FutexResult::woken;  // EAGAIN: the word had changed before we slept
}

namespace {
// As in the kernel's headers from 5.16 on, which need not be those that this is built with.
constexpr long kFutexWaitv = 449;
struct WaitvEntry {
    std::uint64_t expected;
    std::uint64_t address;
    std::uint32_t flags;
    std::uint32_t reserved;
};
constexpr std::uint32_t kFutex32 = 2;  // and no FUTEX_PRIVATE_FLAG
}  // namespace

std::optional<WaitedForAny> wait_for_any(std::atomic<std::uint32_t>* const* words, std::uint32_t count,
                                         std::uint32_t expected, std::int64_t deadline_ns) noexcept {
    WaitvEntry entries[kMostFutexes];
    for (std::uint32_t i = 0; i < count; ++i)
        entries[i] = {expected, reinterpret_cast<std::uintptr_t>(words[i]), kFutex32, 0};
    const timespec deadline{.tv_sec = deadline_ns / 1'000'000'000, .tv_nsec = deadline_ns % 1'000'000'000};
    const long woken = syscall(kFutexWaitv, entries, count, 0, &deadline, CLOCK_MONOTONIC);
    if (woken >= 0) return WaitedForAny{FutexResult::woken, static_cast<std::uint32_t>(woken)};
    if (errno == ETIMEDOUT) return WaitedForAny{FutexResult::timed_out};
    if (errno == EINTR) return WaitedForAny{FutexResult::interrupted};
    if (errno == EAGAIN) return WaitedForAny{FutexResult::woken};
    return std::nullopt;  // ENOSYS: an older kernel; EPERM: a sandbox
}

void futex_wake_all(std::atomic<std::uint32_t>& word) noexcept {
    syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace ringcast::platform
