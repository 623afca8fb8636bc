// macOS: __ulock_wait and __ulock_wake, which libc++ builds std::atomic::wait on, in their shared form.
// Present since macOS 10.12; os_sync_wait_on_address is their public face only from 14.4 on.
#include "platform/futex.hpp"
#include "platform/futex_any.hpp"

#include <cerrno>

extern "C" {
int __ulock_wait(std::uint32_t operation, void* address, std::uint64_t value, std::uint32_t timeout_us);
int __ulock_wake(std::uint32_t operation, void* address, std::uint64_t value);
}

namespace ringcast::platform {

namespace {
constexpr std::uint32_t kCompareAndWaitShared = 3;  // UL_COMPARE_AND_WAIT_SHARED
constexpr std::uint32_t kWakeAll = 0x00000100;      // ULF_WAKE_ALL
constexpr std::uint32_t kReturnErrno = 0x01000000;  // ULF_NO_ERRNO
}  // namespace

FutexResult futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::int64_t timeout_ns) noexcept {
    // A time-out of zero means for ever to __ulock_wait.
    const auto timeout_us = static_cast<std::uint32_t>(timeout_ns < 1000 ? 1 : timeout_ns / 1000);
    const int result = __ulock_wait(kCompareAndWaitShared | kReturnErrno, &word, expected, timeout_us);
    if (result == -ETIMEDOUT) return FutexResult::timed_out;
    if (result == -EINTR) return FutexResult::interrupted;
    return FutexResult::woken;
}

std::optional<WaitedForAny> wait_for_any(std::atomic<std::uint32_t>* const*, std::uint32_t, std::uint32_t,
                                         std::int64_t) noexcept {
    return std::nullopt;
}

void futex_wake_all(std::atomic<std::uint32_t>& word) noexcept {
    __ulock_wake(kCompareAndWaitShared | kWakeAll | kReturnErrno, &word, 0);
}

}  // namespace ringcast::platform
