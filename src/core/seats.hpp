// Seats: who reads a ring, from where, and whether the writer waits for them.
//
// A seat's state is one word: an incarnation and a SeatState. While a seat is ACTIVE its holder keeps the seat's lock
// byte, so the state says what was agreed and the lock says who is alive. Transitions:
//
//     VACANT(n)   -> ACTIVE(n)    a claimant that holds the lock; starts at the head
//     VACANT(n)   -> EXPECTED(n)  the writer, holding the lock: what it sends from now on is kept for the rank
//     EXPECTED(n) -> ACTIVE(n)    a claimant that holds the lock; starts at the seat's cursor, from where all was kept
//     EXPECTED(n) -> FORGONE(n)   the writer gives up waiting for a reader that never came
//     EXPECTED(n) -> VACANT(n+1)  a link, holding the lock: whoever was expected here reads through another seat, from
//                                 which nothing has been taken yet that it lacks
//     FORGONE(n)  -> ACTIVE(n+1)  a claimant that holds the lock; starts at the head, and is told
//     ACTIVE(n)   -> VACANT(n+1)  the holder leaves, before it drops the lock
//     ACTIVE(n)   -> FAILED(n)    the holder gives up as if it had been killed; its views may keep the lock
//     ACTIVE(n), FAILED(n) -> ACTIVE(n+1)  a claimant of the same rank that got the lock, so the holder is gone: it goes
//                                          on at the cursor
//     ACTIVE(n), FAILED(n) -> LAPSED(n)    the writer has told its user that the holder is gone; it is still in the way
//     LAPSED(n)   -> ACTIVE(n+1)  a claimant of the same rank that got the lock; starts at the head
//     ACTIVE(n), FAILED(n), LAPSED(n) -> EVICTED(n)  the writer; a living holder finds out after its next copy
//     EVICTED(n)  -> VACANT(n+1)  the holder leaves
//     EVICTED(n)  -> ACTIVE(n+1)  any claimant that got the lock; starts at the head
//
// The lock makes claimants exclude each other, so a claim is one compare-and-swap and a claimant killed at any point
// before it has changed nothing.
#pragma once

#include <cstdint>
#include <optional>

#include "layout.hpp"
#include "parking.hpp"

namespace ringcast {

enum class SeatState : std::uint8_t {
    vacant = 0,
    expected = 1,
    active = 2,
    evicted = 3,
    failed = 4,
    lapsed = 5,
    forgone = 6,
};

constexpr std::uint64_t seat_word(std::uint64_t incarnation, SeatState state) {
    return incarnation << 8 | static_cast<std::uint64_t>(state);
}
constexpr SeatState seat_state(std::uint64_t word) { return static_cast<SeatState>(word & 0xff); }
constexpr std::uint64_t seat_incarnation(std::uint64_t word) { return word >> 8; }
// Does the writer wait for this seat's cursor?
constexpr bool gates(std::uint64_t word) {
    const SeatState state = seat_state(word);
    return state == SeatState::active || state == SeatState::expected || state == SeatState::failed ||
           state == SeatState::lapsed;
}
// Is or was there a holder whom nobody has followed yet, and whom the writer still waits for?
constexpr bool is_held(std::uint64_t word) {
    const SeatState state = seat_state(word);
    return state == SeatState::active || state == SeatState::failed || state == SeatState::lapsed;
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

// How the waits of the holder that this word of the seat's state tells of have ended; none of one that has left, or that is
// just taking the seat.
template <class P>
std::optional<WaitCounts> waits_of(const Seat<P>& seat, std::uint64_t word) noexcept {
    return seat.waits.load_of(seat_incarnation(word));
}

// The view of a segment that the protocol needs, with sizes taken from a checked geometry.
template <class P>
struct RingView {
    Control<P>* control = nullptr;
    Seat<P>* seats = nullptr;
    std::byte* slots = nullptr;
    Placement<P>* board = nullptr;  // of n_remote readers on other machines; their homes are the seats from n_local on
    std::uint32_t n_local = 0;
    std::uint32_t n_remote = 0;
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

// From where a claimant wants to read.
enum class Start {
    promised,  // whatever was kept for its rank, else the head
    head,
};

// What a claimant finds when it has taken a seat.
struct Claimed {
    std::uint64_t first;  // the first message that it will read
    std::uint64_t since;  // the first one that the seat's last holder, or who was expected there, had not read
    SeatState before;
};

// Takes a seat whose lock the caller holds: whoever had it before has left or is gone. False if the writer changed the
// seat meanwhile. Wakes the writer, which may be waiting for a reader, or for the cursor that is set here.
template <class P>
bool take_seat(const RingView<P>& ring, Seat<P>& seat, Start start, Claimed& taken) noexcept {
    // acquire [leave]: the previous holder's last accesses to the ring are over.
    std::uint64_t word = seat.state.load(std::memory_order_acquire);
    taken.before = seat_state(word);
    taken.since = seat.cursor.load(std::memory_order_relaxed);
    const bool was_held = is_held(word);
    // The writer has kept every message from the cursor on, unless the last holder died before it knew its own first one.
    const bool kept =
        start == Start::promised && (taken.before == SeatState::expected ||
                                     ((taken.before == SeatState::active || taken.before == SeatState::failed) &&
                                      seat.joined_at.load(std::memory_order_relaxed) != kJoining));
    taken.first = taken.since;
    // A cursor that the writer waits for is left alone until the seat is ours.
    // release [consume]: a writer that takes this cursor for the previous holder's must know what that one has read.
    if (!gates(word)) seat.cursor.store(ring.control->head.load(std::memory_order_relaxed), std::memory_order_release);
    // release [joined]: who takes this for the last holder's join position knows that its views are gone.
    seat.joined_at.store(kept ? taken.first : kJoining, std::memory_order_release);
    // release [join]: who sees the seat ACTIVE sees its cursor, and whether it is still joining.
    const bool anew = was_held || taken.before == SeatState::evicted || taken.before == SeatState::forgone;
    const std::uint64_t active = seat_word(seat_incarnation(word) + (anew ? 1 : 0), SeatState::active);
    P::reached(FaultPoint::claim_begin);
    if (!seat.state.compare_exchange_strong(word, active, std::memory_order_release, std::memory_order_relaxed))
        return false;
    P::reached(FaultPoint::claim_swapped);
    // fence [join-scan]: pairs with the fence between the writer's store of `head` and its next scan of the seats.
    // Either that scan finds us, or we find the head it had: from there on nothing can be overwritten without a scan
    // that does. Where all was kept, the seat has gated all the time.
    if (!kept) {
        P::fence_seq_cst();
        taken.first = ring.control->head.load(std::memory_order_relaxed);
        // relaxed: nothing has been read since the fence, which passes the rest on with this store.
        seat.cursor.store(taken.first, std::memory_order_relaxed);
        P::reached(FaultPoint::claim_positioned);
        // release [joined]: the head was read before a writer that sees this publishes more.
        seat.joined_at.store(taken.first, std::memory_order_release);
    }
    P::reached(FaultPoint::claim_announced_begin);
    P::fence_seq_cst();  // [signal]: a seat has been taken, and its cursor set
    unpark<P>(ring.control->writer_parked);
    return true;
}

// The writer's, for a seat whose lock it holds and nobody waits in: from now on all that is sent is kept for the rank.
template <class P>
bool expect_reader(const RingView<P>& ring, Seat<P>& seat) noexcept {
    std::uint64_t word = seat.state.load(std::memory_order_acquire);  // acquire [leave], as in take_seat
    if (gates(word)) return false;
    const bool anew = seat_state(word) != SeatState::vacant;
    // release [consume]: it passes on what the last holder has read.
    seat.cursor.store(ring.control->head.load(std::memory_order_relaxed), std::memory_order_release);
    const std::uint64_t expected = seat_word(seat_incarnation(word) + (anew ? 1 : 0), SeatState::expected);
    // relaxed: with an older cursor or join position the writer only waits for longer.
    if (!seat.state.compare_exchange_strong(word, expected, std::memory_order_relaxed)) return false;
    // fence [join-scan], since another thread may be sending. It passes the rest on with the stores behind it.
    P::fence_seq_cst();
    const std::uint64_t first = ring.control->head.load(std::memory_order_relaxed);
    seat.cursor.store(first, std::memory_order_relaxed);
    seat.joined_at.store(first, std::memory_order_relaxed);
    P::fence_seq_cst();  // [signal]: the writer's other thread may wait for the cursor that stood here before
    unpark<P>(ring.control->writer_parked);
    return true;
}

// A link's, for a seat whose lock it holds: who was expected here reads on its own machine, whose stream has a seat with no
// later cursor. False if the writer has given up waiting here.
template <class P>
bool forgo_home(const RingView<P>& ring, Seat<P>& seat) noexcept {
    std::uint64_t word = seat.state.load(std::memory_order_relaxed);
    if (seat_state(word) != SeatState::expected) return false;
    const std::uint64_t vacant = seat_word(seat_incarnation(word) + 1, SeatState::vacant);
    // relaxed: nobody has read through this seat.
    if (!seat.state.compare_exchange_strong(word, vacant, std::memory_order_relaxed)) return false;
    P::fence_seq_cst();  // [signal]: the seat does not gate any more
    unpark<P>(ring.control->writer_parked);
    return true;
}

// Gives a seat back. The caller still holds its lock and drops it afterwards; it must not touch the ring again. In order,
// or as a holder that was killed would: then the seat stays in the writer's way, and is kept for the rank's next reader.
template <class P>
void leave_seat(const RingView<P>& ring, Seat<P>& seat, bool in_order = true) noexcept {
    P::reached(FaultPoint::leave_begin);
    std::uint64_t word = seat.state.load(std::memory_order_relaxed);
    const auto leave = [&](std::uint64_t after) {
        // release [leave]: our reads of slots and blocks come before the writer reuses them.
        return seat.state.compare_exchange_weak(word, after, std::memory_order_release, std::memory_order_relaxed);
    };
    bool left = false;
    while (seat_state(word) == SeatState::active || seat_state(word) == SeatState::evicted) {
        const bool active = seat_state(word) == SeatState::active;
        if (!leave(active && !in_order ? seat_word(seat_incarnation(word), SeatState::failed)
                                       : seat_word(seat_incarnation(word) + 1, SeatState::vacant)))
            continue;
        left = active && in_order;
        break;
    }
    P::reached(FaultPoint::leave_swapped);
    // release [departure]: who sees the count sees the seat left.
    if (left) ring.control->departures.fetch_add(1, std::memory_order_release);
    P::fence_seq_cst();  // [signal]: the seat does not gate any more, or its holder is gone
    unpark<P>(ring.control->writer_parked);
}

}  // namespace ringcast
