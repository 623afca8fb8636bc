// The turn: threads of one process that share an end use it one at a time.
//
// A try-lock that knows its owner, so that nested use by one thread is an error and not a deadlock. Who must wait is
// parked, in bounded slices, and looks at its deadline and at signals in between. Private to the process.
//
// The turn may also belong to an open chunk, which has a ticket for it: whoever has the ticket takes the turn back as a
// thread, once. That may be the chunk's owner or somebody who may end any chunk, in a thread without the interpreter's lock.
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
    bool try_take(std::uint64_t thread) noexcept { return change(0, thread); }
    bool is_taken() const noexcept { return owner_.load(std::memory_order_relaxed) != 0; }
    bool is_mine(std::uint64_t thread) const noexcept { return owner_.load(std::memory_order_relaxed) == thread; }

    void give_back() noexcept {
        // A waiter that has starved gets the turn before any newcomer.
        const bool hand_over = starving_.load(kOrder) != 0;
        if constexpr (Serialised)
            owner_.store(hand_over ? kHandedOver : 0, std::memory_order_relaxed);
        else
            owner_.exchange(hand_over ? kHandedOver : 0, std::memory_order_seq_cst);  // release [turn]
        if (hand_over && starving_.load(kOrder) == 0) change(kHandedOver, 0);         // it has given up meanwhile
        if (waiters_.load(kOrder) != 0) wake();
    }

    // Tickets are odd numbers from 3 on, and no two chunks' are the same.
    void entrust(std::uint64_t ticket) noexcept {
        owner_.exchange(ticket, std::memory_order_seq_cst);
    }  // release [turn]
    // That of the chunk that has the turn; 0: none has.
    std::uint64_t ticket() const noexcept {
        const std::uint64_t owner = owner_.load(std::memory_order_relaxed);
        return (owner & 1) != 0 && owner != kHandedOver ? owner : 0;
    }
    bool redeem(std::uint64_t ticket, std::uint64_t thread) noexcept {
        return owner_.compare_exchange_strong(ticket, thread, std::memory_order_seq_cst,  // acquire [turn]
                                              std::memory_order_relaxed);
    }

    // To wait: enlist; then try_take_enlisted and await what `released` gave before, in turns; at last delist.
    void enlist() noexcept { waiters_.fetch_add(1, std::memory_order_seq_cst); }
    std::uint32_t released() const noexcept { return released_.load(std::memory_order_acquire); }
    bool try_take_enlisted(std::uint64_t thread) noexcept {
        const bool first = starving_.load(kOrder) == thread;
        if (!change(0, thread) && !(first && change(kHandedOver, thread))) return false;
        if (first) starving_.store(0, kOrder);
        return true;
    }
    void await(std::uint32_t seen, std::int64_t slice_ns) noexcept { platform::futex_wait(released_, seen, slice_ns); }
    // This enlisted thread has waited for long: the next turn is its, unless another's already.
    void starve(std::uint64_t thread) noexcept {
        std::uint64_t nobody = 0;
        starving_.compare_exchange_strong(nobody, thread, std::memory_order_seq_cst);
    }
    void delist(std::uint64_t thread) noexcept {
        waiters_.fetch_sub(1, std::memory_order_seq_cst);
        if (starving_.load(kOrder) != thread) return;
        starving_.store(0, kOrder);
        if (change(kHandedOver, 0) && waiters_.load(kOrder) != 0) wake();
    }

private:
    static constexpr std::uint64_t kHandedOver = 1;  // no thread's id: they are addresses
    static constexpr std::memory_order kOrder = Serialised ? std::memory_order_relaxed : std::memory_order_seq_cst;

    void wake() noexcept {
        released_.fetch_add(1, std::memory_order_release);
        platform::futex_wake_all(released_);
    }
    bool change(std::uint64_t from, std::uint64_t to) noexcept {
        if constexpr (Serialised) {
            if (owner_.load(std::memory_order_relaxed) != from) return false;
            owner_.store(to, std::memory_order_relaxed);
            return true;
        }
        // acquire [turn]: what the last owner did to the end is ours to see. seq_cst, as are the waiters' words: an
        // enlisted waiter finds the turn free, or who gives it back finds the waiter.
        return owner_.compare_exchange_strong(from, to, std::memory_order_seq_cst, std::memory_order_relaxed);
    }

    alignas(64) std::atomic<std::uint64_t> owner_{0};
    std::atomic<std::uint32_t> waiters_{0};
    std::atomic<std::uint32_t> released_{0};
    std::atomic<std::uint64_t> starving_{0};
};

using Turn = BasicTurn<kCallersSerialised>;

}  // namespace ringcast
