// The turn: threads of one process that share an end use it one at a time.
//
// A try-lock that knows its owner, so that nested use by one thread is an error and not a deadlock. Who must wait is
// parked, in bounded slices, and looks at its deadline and at signals in between. Private to the process.
//
// Where callers are serialised anyway, by an interpreter's global lock that they hold at each of these calls but
// `await`, that lock orders everything and plain loads and stores will do: the two atomic exchanges that they replace
// are a fifth of what a small message costs.
#pragma once

#include <atomic>
#include <cstdint>

#include "platform/futex.hpp"

namespace ringcast {

#if defined(RINGCAST_CALLERS_SERIALISED)
inline constexpr bool kCallersSerialised = true;
#else
inline constexpr bool kCallersSerialised = false;
#endif

template <bool Serialised>
class BasicTurn {
public:
    bool try_take(std::uint64_t thread) noexcept {
        std::uint64_t nobody = 0;
        if constexpr (Serialised) {
            if (owner_.load(std::memory_order_relaxed) != nobody) return false;
            owner_.store(thread, std::memory_order_relaxed);
            return true;
        }
        // acquire [turn]: what the last owner did to the end is ours to see. seq_cst, as are enlist and give_back: a
        // waiter that is enlisted finds the turn free here, or who gives it back finds the waiter.
        return owner_.compare_exchange_strong(nobody, thread, std::memory_order_seq_cst, std::memory_order_relaxed);
    }
    bool is_mine(std::uint64_t thread) const noexcept { return owner_.load(std::memory_order_relaxed) == thread; }
    void give_back() noexcept {
        if constexpr (Serialised)
            owner_.store(0, std::memory_order_relaxed);
        else
            owner_.exchange(0, std::memory_order_seq_cst);  // release [turn]
        if (waiters_.load(Serialised ? std::memory_order_relaxed : std::memory_order_seq_cst) != 0) {
            released_.fetch_add(1, std::memory_order_release);
            platform::futex_wake_all(released_);
        }
    }

    // To wait: enlist, try to take the turn once more, await what enlist returned, delist, try again.
    std::uint32_t enlist() noexcept {
        waiters_.fetch_add(1, std::memory_order_seq_cst);
        return released_.load(std::memory_order_acquire);
    }
    void await(std::uint32_t enlisted, std::int64_t slice_ns) noexcept {
        platform::futex_wait(released_, enlisted, slice_ns);
    }
    void delist() noexcept { waiters_.fetch_sub(1, std::memory_order_relaxed); }

private:
    alignas(64) std::atomic<std::uint64_t> owner_{0};
    std::atomic<std::uint32_t> waiters_{0};
    std::atomic<std::uint32_t> released_{0};
};

using Turn = BasicTurn<kCallersSerialised>;

}  // namespace ringcast
