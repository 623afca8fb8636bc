// Release marks: how the writer learns that nobody reads a block any more, without knowing beforehand who will.
//
// A message in a block has a row of marks. A reader that is done with the block, because it has copied it or because its
// last view has gone, stores the message's number, counted from 1, in its seat's column of that row (release [mark]).
// The writer uses a block again only when the gate has passed its message and every seat that may have read it has
// marked it (acquire [mark]). Since a mark is the message's number and not a flag, nothing has to be reset, and a mark
// of an earlier message in the row says nothing.
//
// A seat may have read message p if it joined at or before p and its cursor has come beyond it; an evicted holder may
// also be reading the message at its cursor, if it has said so before (RingReader::touch_block). So later joiners, readers that left or were evicted with views alive, and a
// seat's next incarnation need no rules of their own: a seat's lock is held until its holder's last view has gone, and
// who finds the lock free knows that there are none.
#pragma once

#include <cstdint>

#include "seats.hpp"

namespace ringcast {

constexpr std::uint64_t mark_of(std::uint64_t position) { return position + 1; }

// The holder of `column` has read the block of `row` for the last time.
template <class P>
void mark_done(const RingView<P>& ring, std::uint32_t column, std::uint32_t row, std::uint64_t mark) noexcept {
    P::reached(FaultPoint::mark_begin);
    ring.mark(column, row).store(mark, std::memory_order_release);  // release [mark]
    P::reached(FaultPoint::mark_stored);
}

template <class P>
bool is_marked(const RingView<P>& ring, std::uint32_t column, std::uint32_t row, std::uint64_t mark) noexcept {
    return ring.mark(column, row).load(std::memory_order_acquire) == mark;  // acquire [mark]
}

// May the seat's holder, if it is alive, still read message `position`, whose gate has passed, in `row`?
template <class P>
bool may_read(const RingView<P>& ring, std::uint32_t index, std::uint32_t row, std::uint64_t position) noexcept {
    const Seat<P>& seat = ring.seats[index];
    const std::uint64_t word = seat.state.load(std::memory_order_acquire);  // acquire [join], [leave]
    if (word == seat_word(0, SeatState::vacant)) return false;
    // acquire [joined]: a new join position means that the last holder's views are gone.
    if (seat.joined_at.load(std::memory_order_acquire) > position) return false;
    const std::uint64_t cursor = seat.cursor.load(std::memory_order_acquire);  // acquire [consume]
    if (position > cursor) return false;
    if (position == cursor) {
        if (seat_state(word) != SeatState::evicted) return false;
        // relaxed: the fence [evict] came between.
        if (seat.touching.load(std::memory_order_relaxed) != mark_of(position)) return false;
    }
    return !is_marked(ring, index, row, mark_of(position));
}

// The first column of marks, the writer's own behind the seats' included, for which `holds` is true; the number of columns if
// there is none. Asked by rising numbers: see make_image.
template <class P, class Holds>
std::uint32_t first_holder(const RingView<P>& ring, Holds&& holds) {
    std::uint32_t column = 0;
    while (column <= ring.n_seats && !holds(column)) ++column;
    return column;
}

// Makes seat `image`, whose lock the caller holds and in which nobody waits, hold all that seat `of` holds, a seat of the
// caller's own with a lower number; its last leased message is the one before `reached`. False if the seat was changed
// meanwhile.
//
// relaxed: until the caller marks what seat `of` holds, or is gone, that seat keeps it; and who has seen such a mark
// (acquire [mark]), or found that lock free, sees all this. So the writer asks seats by rising numbers (first_holder).
template <class P>
bool make_image(const RingView<P>& ring, std::uint32_t of, std::uint32_t image, std::uint64_t reached,
                std::uint32_t rows) noexcept {
    const Seat<P>& from = ring.seats[of];
    Seat<P>& to = ring.seats[image];
    std::uint64_t word = to.state.load(std::memory_order_relaxed);
    for (std::uint32_t row = 0; row < rows; ++row)
        ring.mark(image, row).store(ring.mark(of, row).load(std::memory_order_relaxed), std::memory_order_relaxed);
    const std::uint64_t cursor = from.cursor.load(std::memory_order_relaxed);
    to.cursor.store(cursor < reached ? reached : cursor, std::memory_order_relaxed);
    to.joined_at.store(from.joined_at.load(std::memory_order_relaxed), std::memory_order_relaxed);
    const std::uint64_t left = seat_word(seat_incarnation(word) + 1, SeatState::vacant);
    return to.state.compare_exchange_strong(word, left, std::memory_order_relaxed);
}

}  // namespace ringcast
