// Linux: the futex system call, shared between processes (no FUTEX_PRIVATE_FLAG).
#include "platform/futex.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cerrno>
#include <climits>
#include <ctime>

namespace ringcast::platform {

static_assert(sizeof(std::atomic<std::uint32_t>) == 4 && std::atomic<std::uint32_t>::is_always_lock_free);

FutexResult futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::int64_t timeout_ns) noexcept {
    const timespec timeout{.tv_sec = timeout_ns / 1'000'000'000, .tv_nsec = timeout_ns % 1'000'000'000};
    if (syscall(SYS_futex, &word, FUTEX_WAIT, expected, &timeout, nullptr, 0) == 0) return FutexResult::woken;
    if (errno == ETIMEDOUT) return FutexResult::timed_out;
    if (errno == EINTR) return FutexResult::interrupted;
    return FutexResult::woken;  // EAGAIN: the word had changed before we slept
}

void futex_wake_all(std::atomic<std::uint32_t>& word) noexcept {
    syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace ringcast::platform
