// The platform policy: all that the ring's protocol asks of the machine it runs on.
// The protocol headers are templates over this type, so that a model can put its own atomics, fences, copies and
// parking in its place and explore the very code that ships.
#pragma once

#include <sched.h>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fault_points.hpp"
#include "platform/clock.hpp"
#include "platform/futex.hpp"

namespace ringcast::platform {

struct Native {
    template <class T>
    using atomic = std::atomic<T>;
    using futex_word = std::atomic<std::uint32_t>;

    static void fence_seq_cst() noexcept {
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
        // A locked instruction is a full fence for ordinary memory and takes half the time of the mfence that compilers
        // still emit; mfence also orders non-temporal stores, which memcpy fences by itself.
        asm volatile("lock orl $0, (%%rsp)" ::: "memory", "cc");
#else
        std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
    }

    static void fence_acquire() noexcept { std::atomic_thread_fence(std::memory_order_acquire); }
    static void fence_release() noexcept { std::atomic_thread_fence(std::memory_order_release); }

    // Payload bytes: plain memory, ordered only by the slot's sequence and the seat's cursor.
    static void copy(void* to, const void* from, std::size_t bytes) noexcept { std::memcpy(to, from, bytes); }

    static FutexResult futex_wait(futex_word& word, std::uint32_t expected, std::int64_t timeout_ns) noexcept {
        return platform::futex_wait(word, expected, timeout_ns);
    }
    static WaitedForAny futex_wait_any(futex_word* const* words, std::uint32_t count, std::uint32_t expected,
                                       std::int64_t timeout_ns) noexcept {
        return platform::futex_wait_any(words, count, expected, timeout_ns);
    }
    static void futex_wake_all(futex_word& word) noexcept { platform::futex_wake_all(word); }

    static std::int64_t now_ns() noexcept { return monotonic_ns(); }
    static std::int64_t thread_cpu_ns() noexcept { return platform::thread_cpu_ns(); }

    static void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("isb" ::
                         : "memory");  // `yield` is a no-op on most cores; isb waits for about as long as x86's pause
#endif
    }
    static void yield() noexcept { sched_yield(); }

    static void reached(FaultPoint point) noexcept { ringcast::reached(point); }
};

}  // namespace ringcast::platform
