// The board: what becomes of readers on other machines, as their link tells it to the writer.
//
// A placement is written by the link of the writer's machine, but for `told` and `evict`, which are the writer's. `state` is
// stored last, and news are counted with the readers that leave: so the writer hears of them by the one load that it
// makes for every message anyway.
#pragma once

#include <cstdint>

#include "parking.hpp"
#include "seats.hpp"

namespace ringcast {

template <class P>
PlacementState placement_state(const Placement<P>& placement) noexcept {
    return static_cast<PlacementState>(placement.state.load(std::memory_order_acquire));  // acquire [placed]
}

// Is there somebody of whom the writer can be told?
constexpr bool is_taken(PlacementState state) { return state != PlacementState::open; }

// The link's: what has become of the reader, whose other words have been stored.
template <class P>
void post_placement(const RingView<P>& ring, std::uint32_t index, PlacementState state) noexcept {
    // release [placed]: who sees the state sees rank, process and stream.
    ring.board[index].state.store(static_cast<std::uint32_t>(state), std::memory_order_release);
    // release [departure]: who sees the count sees the state.
    ring.control->departures.fetch_add(1, std::memory_order_release);
    P::fence_seq_cst();  // [signal]: the writer may wait for all to be there, or for this one
    unpark<P>(ring.control->writer_parked);
}

// The writer's: go on without this reader. Its stream's link, which looks between two messages, passes it on.
template <class P>
void ask_to_evict(const RingView<P>& ring, std::uint32_t index) noexcept {
    Placement<P>& placement = ring.board[index];
    placement.evict.fetch_add(1, std::memory_order_relaxed);
    P::fence_seq_cst();  // [signal]
    const std::uint32_t stream = placement.stream.load(std::memory_order_relaxed);
    if (stream < ring.n_seats) unpark<P>(ring.seats[stream].parked);
}

template <class P>
bool is_stream(const RingView<P>& ring, std::uint32_t seat) noexcept {
    return ring.n_remote != 0 && ring.seats[seat].rank.load(std::memory_order_relaxed) == kStream;
}

// Calls `visit(index, placement)` for each reader that reads through this stream.
template <class P, class Visit>
void visit_stream(const RingView<P>& ring, std::uint32_t stream, Visit&& visit) {
    for (std::uint32_t i = 0; i < ring.n_remote; ++i) {
        Placement<P>& placement = ring.board[i];
        if (is_taken(placement_state(placement)) && placement.stream.load(std::memory_order_relaxed) == stream)
            visit(i, placement);
    }
}

template <class P>
bool all_placed(const RingView<P>& ring) noexcept {
    for (std::uint32_t i = 0; i < ring.n_remote; ++i)
        if (const PlacementState state = placement_state(ring.board[i]);
            state != PlacementState::attached && state != PlacementState::cut)
            return false;
    return true;
}

// Messages that a machine's stream has not brought there yet, of the one that lacks most.
template <class P>
std::uint64_t under_way(const RingView<P>& ring) noexcept {
    const std::uint64_t head = ring.control->head.load(std::memory_order_relaxed);
    std::uint64_t most = 0;
    for (std::uint32_t i = 0; ring.n_remote != 0 && i < ring.n_seats; ++i) {
        // relaxed: only how many there are is wanted.
        if (!is_stream(ring, i) || seat_state(ring.seats[i].state.load(std::memory_order_relaxed)) != SeatState::active)
            continue;
        const std::uint64_t cursor = ring.seats[i].cursor.load(std::memory_order_relaxed);
        if (head > cursor && head - cursor > most) most = head - cursor;
    }
    return most;
}

}  // namespace ringcast
