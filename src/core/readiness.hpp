// Who of the promised ranks is there, and what those who are not have still to get.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ring.hpp"

namespace ringcast {

template <class P>
bool has_reader(const RingView<P>& ring, std::uint32_t rank) noexcept {
    for (std::uint32_t i = 0; i < ring.n_seats; ++i)
        if (is_attached(ring.seats[i]) && ring.seats[i].rank.load(std::memory_order_relaxed) == rank) return true;
    return false;
}

template <class P, class Ranks>
bool all_have_readers(const RingView<P>& ring, const Ranks& ranks) noexcept {
    return std::all_of(ranks.begin(), ranks.end(), [&](std::uint32_t rank) { return has_reader(ring, rank); });
}

// Tells the readers that every rank has one.
template <class P>
void confirm_ready(const RingView<P>& ring, RingWriter<P>& writer) noexcept {
    ring.control->all_ready.store(1, std::memory_order_release);  // release [ready]
    P::reached(FaultPoint::ready_stored);
    writer.announce();  // [signal]
}

// Tells the readers that nothing will be published any more, and why.
template <class P>
void end_queue(const RingView<P>& ring, RingWriter<P>& writer, Ending why = Ending::closed) noexcept {
    P::reached(FaultPoint::close_begin);
    ring.control->closed.store(static_cast<std::uint32_t>(why),
                               std::memory_order_release);  // release [closed]: after the last message
    P::reached(FaultPoint::close_stored);
    writer.announce();  // [signal]
}

// How many readers have left in order. Who sees the count sees their seats left.
template <class P>
std::uint32_t readers_that_left(const RingView<P>& ring) noexcept {
    return ring.control->departures.load(std::memory_order_acquire);  // acquire [departure]
}

// How many messages wait for the one, of those who have not come yet to the first seats, that has most to get.
template <class P>
std::uint64_t kept_for_expected(const RingView<P>& ring, std::uint32_t n_seats) noexcept {
    const std::uint64_t head = ring.control->head.load(std::memory_order_relaxed);
    std::uint64_t most = 0;
    for (std::uint32_t i = 0; i < n_seats; ++i) {
        const Seat<P>& seat = ring.seats[i];
        // relaxed, as is the cursor: nobody but the writer has stored either.
        if (seat_state(seat.state.load(std::memory_order_relaxed)) != SeatState::expected) continue;
        const std::uint64_t cursor = seat.cursor.load(std::memory_order_relaxed);
        if (head > cursor) most = std::max(most, head - cursor);
    }
    return most;
}

}  // namespace ringcast
