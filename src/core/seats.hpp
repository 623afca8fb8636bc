// Seats: who reads a ring, from where, and whether the writer waits for them.
//
// A seat's state is one word: an incarnation and a SeatState. While a seat is ACTIVE its holder keeps the seat's lock
// byte, so the state says what was agreed and the lock says who is alive. Transitions:
//
//     VACANT(n)   -> ACTIVE(n)    a claimant that holds the lock; starts at the head
//     EXPECTED(n) -> ACTIVE(n)    a claimant that holds the lock; starts at message 0, which has been kept for it
//     ACTIVE(n)   -> VACANT(n+1)  the holder leaves, before it drops the lock
//     ACTIVE(n)   -> ACTIVE(n+1)  a claimant of the same rank that got the lock: the holder is dead; starts at the head
//     ACTIVE(n)   -> EVICTED(n)   the writer; the holder finds out after its next copy
//     EVICTED(n)  -> VACANT(n+1)  the holder leaves
//     EVICTED(n)  -> ACTIVE(n+1)  any claimant that got the lock
//     EXPECTED(n) -> VACANT(n+1)  the writer gives up waiting for a reader that never came
//
// The lock makes claimants exclude each other, so a claim is one compare-and-swap and a claimant killed at any point
// before it has changed nothing.
#pragma once

#include <cstdint>

#include "layout.hpp"

namespace ringcast {

enum class SeatState : std::uint8_t { vacant = 0, expected = 1, active = 2, evicted = 3 };

constexpr std::uint64_t seat_word(std::uint64_t incarnation, SeatState state) {
    return incarnation << 8 | static_cast<std::uint64_t>(state);
}
constexpr SeatState seat_state(std::uint64_t word) { return static_cast<SeatState>(word & 0xff); }
constexpr std::uint64_t seat_incarnation(std::uint64_t word) { return word >> 8; }
// Does the writer wait for this seat's cursor?
constexpr bool gates(std::uint64_t word) {
    return seat_state(word) == SeatState::active || seat_state(word) == SeatState::expected;
}

inline constexpr std::uint32_t kAnySeat = UINT32_MAX;  // the writer's parked word when any seat's change wakes it
inline constexpr std::uint64_t kJoining = UINT64_MAX;  // as joined_at: the holder does not know its first message yet

// Does the seat have a reader that gets all that is sent from now on?
template <class P>
bool is_attached(const Seat<P>& seat) noexcept {
    // acquire [join]: the join position is not the previous holder's. acquire [joined]: nothing sent later is missed.
    return seat_state(seat.state.load(std::memory_order_acquire)) == SeatState::active &&
           seat.joined_at.load(std::memory_order_acquire) != kJoining;
}

// The view of a segment that the protocol needs, with sizes taken from a checked geometry.
template <class P>
struct RingView {
    Control<P>* control = nullptr;
    Seat<P>* seats = nullptr;
    std::byte* slots = nullptr;
    std::uint32_t n_seats = 0;
    std::uint32_t depth = 0;
    std::uint32_t slot_bytes = 0;
    std::byte* marks = nullptr;
    std::uint32_t mark_column_bytes = 0;

    // What the holder of seat `column` says of row `row`: the number of the last message there that it is done with.
    typename P::template atomic<std::uint64_t>& mark(std::uint32_t column, std::uint32_t row) const noexcept {
        using Mark = typename P::template atomic<std::uint64_t>;
        return reinterpret_cast<Mark*>(marks + std::size_t{column} * mark_column_bytes)[row];
    }
    SlotHeader<P>& slot(std::uint32_t index) const noexcept {
        return *reinterpret_cast<SlotHeader<P>*>(slots + std::size_t{index} * slot_bytes);
    }
    static std::byte* inline_area(SlotHeader<P>& slot) noexcept {
        return reinterpret_cast<std::byte*>(&slot) + sizeof(SlotHeader<P>);
    }
};

// Takes a seat whose lock the caller holds: whoever had it before has left or is dead. On success `first` is the first
// message the holder will read. False if the writer changed the seat meanwhile.
template <class P>
bool take_seat(const RingView<P>& ring, Seat<P>& seat, std::uint64_t& first) noexcept {
    // acquire [leave]: the previous holder's last accesses to the ring are over.
    std::uint64_t word = seat.state.load(std::memory_order_acquire);
    const SeatState before = seat_state(word);
    const bool was_expected = before == SeatState::expected;
    const bool was_held = before == SeatState::active || before == SeatState::evicted;
    // release [consume]: a writer that takes this cursor for the previous holder's must know what that one has read.
    if (!was_expected) seat.cursor.store(ring.control->head.load(std::memory_order_relaxed), std::memory_order_release);
    seat.joined_at.store(kJoining, std::memory_order_release);  // release [joined]
    // release [join]: who sees the seat ACTIVE sees its cursor, and that it is still joining.
    const std::uint64_t taken = seat_word(seat_incarnation(word) + (was_held ? 1 : 0), SeatState::active);
    P::reached(FaultPoint::claim_begin);
    if (!seat.state.compare_exchange_strong(word, taken, std::memory_order_release, std::memory_order_relaxed))
        return false;
    P::reached(FaultPoint::claim_swapped);
    // fence [join-scan]: pairs with the fence between the writer's store of `head` and its next scan of the seats.
    // Either that scan finds us, or we find the head it had: from there on nothing can be overwritten without a scan
    // that does.
    P::fence_seq_cst();
    if (was_expected) {
        first = seat.cursor.load(std::memory_order_relaxed);
    } else {
        first = ring.control->head.load(std::memory_order_relaxed);
        // relaxed: nothing has been read since the fence, which passes the rest on with this store.
        seat.cursor.store(first, std::memory_order_relaxed);
    }
    P::reached(FaultPoint::claim_positioned);
    // release [joined]: the head was read before a writer that sees this publishes more.
    seat.joined_at.store(first, std::memory_order_release);
    return true;
}

// Gives a seat back. The caller still holds its lock and drops it afterwards; it must not touch the ring again.
template <class P>
void leave_seat(Seat<P>& seat) noexcept {
    P::reached(FaultPoint::leave_begin);
    std::uint64_t word = seat.state.load(std::memory_order_relaxed);
    while (seat_state(word) == SeatState::active || seat_state(word) == SeatState::evicted) {
        // release [leave]: our reads of slots and blocks come before the writer reuses them.
        if (seat.state.compare_exchange_weak(word, seat_word(seat_incarnation(word) + 1, SeatState::vacant),
                                             std::memory_order_release, std::memory_order_relaxed))
            return;
    }
}

}  // namespace ringcast
