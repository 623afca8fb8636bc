// The turn: threads of one process that share an end use it one at a time.
//
// A try-lock that knows its owner, so that nested use by one thread is an error and not a deadlock. Taking a free turn
// is one compare-and-swap, giving it back one exchange; who must wait is parked, in bounded slices, and looks at its
// deadline and at signals in between. Private to the process.
#pragma once

#include <atomic>
#include <cstdint>

#include "platform/futex.hpp"

namespace ringcast {

class Turn {
public:
    bool try_take(std::uint64_t thread) noexcept {
        std::uint64_t nobody = 0;
        // acquire [turn]: what the last owner did to the end is ours to see.
        return owner_.compare_exchange_strong(nobody, thread, std::memory_order_acquire, std::memory_order_relaxed);
    }
    bool is_mine(std::uint64_t thread) const noexcept { return (owner_.load(std::memory_order_relaxed)) == thread; }
    void give_back() noexcept {
        // release [turn]. seq_cst, as is the waiter's count and load below: either we see the waiter, or it sees the
        // turn free.
        owner_.exchange(0, std::memory_order_seq_cst);
        if (waiters_.load(std::memory_order_seq_cst) != 0) {
            released_.fetch_add(1, std::memory_order_release);
            platform::futex_wake_all(released_);
        }
    }
    // Waits for at most `slice_ns` for the turn to look free, then the caller tries again.
    void await(std::int64_t slice_ns) noexcept {
        const std::uint32_t seen = released_.load(std::memory_order_acquire);
        waiters_.fetch_add(1, std::memory_order_seq_cst);
        if (owner_.load(std::memory_order_seq_cst) != 0) platform::futex_wait(released_, seen, slice_ns);
        waiters_.fetch_sub(1, std::memory_order_relaxed);
    }

private:
    alignas(64) std::atomic<std::uint64_t> owner_{0};
    std::atomic<std::uint32_t> waiters_{0};
    std::atomic<std::uint32_t> released_{0};
};

}  // namespace ringcast
