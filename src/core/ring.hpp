// The ring: one writer, many readers, each message to every reader, once, whole, in order.
//
// Message p goes into slot p % depth. The writer fills the slot and stores p + 1 into its sequence (release [publish]);
// a reader whose cursor is p waits to load p + 1 (acquire [publish]), copies, and stores its cursor p + 1 (release
// [consume]). The writer overwrites the slot only after it has loaded cursors beyond p from every gating seat (acquire
// [consume]). No lock is held across processes, and a message is visible only when it is complete.
#pragma once

#include <cstdint>

#include "layout.hpp"
#include "parking.hpp"
#include "seats.hpp"

namespace ringcast {

template <class P>
class RingWriter {
public:
    explicit RingWriter(const RingView<P>& ring) : ring_(ring) {}

    std::uint64_t position() const noexcept { return position_; }
    // All gating readers have read the messages before this one, as of the last scan.
    std::uint64_t gate() const noexcept { return gate_; }
    // The seat that held the gate back in the last scan.
    std::uint32_t laggard() const noexcept { return laggard_; }

    // How far every reader must have come before the next message has a slot.
    std::uint64_t needed_for_slot() const noexcept { return position_ < ring_.depth ? 0 : position_ - ring_.depth + 1; }

    // Looks at every seat; for a writer that wants the newest gate, not just a sufficient one.
    void refresh_gate() noexcept { scan(); }

    // Have all gating readers read the first `count` messages? Scans the seats only if the last scan does not say so.
    bool passed(std::uint64_t count) noexcept {
        if (gate_ >= count) return true;
        scan();
        return gate_ >= count;
    }

    SlotHeader<P>& slot() const noexcept { return ring_.slot(index_); }

    // Makes the slot's message readable. Readers that are parked learn of it at the next `announce`.
    void publish(const Descriptor& descriptor) noexcept {
        SlotHeader<P>& slot = ring_.slot(index_);
        P::copy(&slot.descriptor, &descriptor, sizeof descriptor);
        P::reached(FaultPoint::publish_described);
        ++position_;
        slot.sequence.store(position_, std::memory_order_release);  // release [publish]
        P::reached(FaultPoint::publish_sequenced);
        // relaxed: the sequences pass the messages on; when a joiner must see this head is the fences' doing.
        ring_.control->head.store(position_, std::memory_order_relaxed);
        P::reached(FaultPoint::publish_headed);
        if (++index_ == ring_.depth) index_ = 0;
        unannounced_ = true;
    }

    // Wakes the readers that are parked.
    void announce() noexcept {
        P::fence_seq_cst();  // [signal] for the sequences stored; [join-scan] for the head stored
        P::reached(FaultPoint::announce_fenced);
        unannounced_ = false;
        for (std::uint32_t i = 0; i < ring_.n_seats; ++i) {
            P::reached(FaultPoint::announce_seat_begin);
            unpark<P>(ring_.seats[i].parked);
        }
    }

    // One look at a seat, for a writer that waits for it alone. relaxed: it only ends the wait; what the writer then does
    // rests on a scan.
    bool seat_passed(std::uint32_t seat, std::uint64_t count) const noexcept {
        const Seat<P>& s = ring_.seats[seat];
        if (!gates(s.state.load(std::memory_order_relaxed))) return true;
        return s.cursor.load(std::memory_order_relaxed) >= count;
    }

    // Stops waiting for a seat whose state was `word`; false if it has changed since, or did not gate. Its holder, if
    // alive, finds out after its next copy and throws that copy away.
    bool evict(std::uint32_t seat, std::uint64_t word) noexcept {
        Seat<P>& s = ring_.seats[seat];
        if (!gates(word)) return false;
        const std::uint64_t after =
            seat_word(seat_incarnation(word), is_held(word) ? SeatState::evicted : SeatState::forgone);
        P::reached(FaultPoint::evict_begin);
        if (!s.state.compare_exchange_strong(word, after, std::memory_order_relaxed)) return false;
        P::reached(FaultPoint::evict_swapped);
        // fence [evict]: the state is stored before any slot is overwritten that the holder may still be copying, and
        // before we look at which block it touches; pairs with the fences [evict] in RingReader::settle and touch_block.
        // Also [signal] for the parked reader and writer.
        P::fence_seq_cst();
        unpark<P>(s.parked);
        unpark<P>(ring_.control->writer_parked);
        return true;
    }

    // The user of this writer learns that the seat's holder, with `word` as its state, is gone: what was kept for the rank
    // is no promise any more, though the seat is still in the way. False if somebody has taken the seat since.
    bool lapse(std::uint32_t seat, std::uint64_t word) noexcept {
        // relaxed: nothing is read or overwritten because of it.
        return ring_.seats[seat].state.compare_exchange_strong(
            word, seat_word(seat_incarnation(word), SeatState::lapsed), std::memory_order_relaxed);
    }

private:
    void scan() noexcept {
        if (unannounced_) announce();  // the fence [join-scan] must lie between the last head and this scan
        std::uint64_t least = position_;
        for (std::uint32_t i = 0; i < ring_.n_seats; ++i) {
            P::reached(FaultPoint::gate_seat_begin);
            const Seat<P>& seat = ring_.seats[i];
            if (!gates(seat.state.load(std::memory_order_acquire))) continue;          // acquire [join], [leave]
            const std::uint64_t cursor = seat.cursor.load(std::memory_order_acquire);  // acquire [consume]
            if (cursor < least) {
                least = cursor;
                laggard_ = i;
            }
        }
        gate_ = least;
    }

    RingView<P> ring_;
    std::uint64_t position_ = 0;
    std::uint64_t gate_ = 0;
    std::uint32_t index_ = 0;
    std::uint32_t laggard_ = 0;
    bool unannounced_ = false;
};

// How far all gating readers have come, found by another thread of the writer's process than that which sends: of messages
// before that, what a block is held by can be asked.
template <class P>
std::uint64_t gate_of(const RingView<P>& ring) noexcept {
    std::uint64_t least = ring.control->head.load(std::memory_order_relaxed);
    // fence [join-scan]: a joiner whom this scan misses sees this head, or a later one, and reads nothing before it.
    P::fence_seq_cst();
    for (std::uint32_t i = 0; i < ring.n_seats; ++i) {
        const Seat<P>& seat = ring.seats[i];
        // relaxed: fence [evict] below pairs with the releases [join], [leave] and [consume].
        if (!gates(seat.state.load(std::memory_order_relaxed))) continue;
        const std::uint64_t cursor = seat.cursor.load(std::memory_order_relaxed);
        if (cursor < least) least = cursor;
    }
    // fence [evict]: of a holder that this scan has seen evicted we see which block it touches, or it sees that it is.
    P::fence_seq_cst();
    return least;
}

template <class P>
class RingReader {
public:
    // `first` is the position that take_seat returned for the seat.
    RingReader(const RingView<P>& ring, std::uint32_t seat, std::uint64_t first)
        : ring_(ring),
          seat_(&ring.seats[seat]),
          token_(seat + 1),
          cursor_(first),
          index_(static_cast<std::uint32_t>(first % ring.depth)),
          active_word_(seat_word(seat_incarnation(seat_->state.load(std::memory_order_relaxed)), SeatState::active)) {}

    std::uint64_t cursor() const noexcept { return cursor_; }
    bool readable() const noexcept {
        return ring_.slot(index_).sequence.load(std::memory_order_acquire) == cursor_ + 1;  // acquire [publish]
    }
    // Only after `readable`.
    SlotHeader<P>& slot() const noexcept { return ring_.slot(index_); }

    // Is the descriptor that was just copied whole? Asked only if it is impossible: then either we have been evicted and it
    // is torn, or its memory was overwritten by a stranger.
    bool intact() const noexcept {
        // acquire [evict]: if the copy has a byte of a later message, the load below sees EVICTED.
        P::fence_acquire();
        return still_seated();
    }

    // May the block in `row` be read, that the descriptor just copied names? If so, the writer keeps it until we have
    // consumed the message, even if it evicts us meanwhile; of a slot that was overwritten, the descriptor may be another
    // message's, and we have been evicted.
    bool touch_block(std::uint32_t row) noexcept {
        // A mark of this very message can only be that of the seat's last holder, who was killed before it had consumed it.
        const std::uint64_t number = cursor_ + 1;
        auto& mark = ring_.mark(token_ - 1, row);
        if (mark.load(std::memory_order_relaxed) == number) mark.store(0, std::memory_order_relaxed);
        seat_->touching.store(number, std::memory_order_relaxed);
        // fence [evict]: either the writer that evicts us sees what we touch, or we see EVICTED; and if the descriptor has
        // a byte of a later message, we do.
        P::fence_seq_cst();
        return still_seated();
    }

    // The bytes of the current message have been copied: the writer may have its slot.
    void consume() noexcept {
        P::reached(FaultPoint::consume_begin);
        ++cursor_;
        if (++index_ == ring_.depth) index_ = 0;
        seat_->cursor.store(cursor_, std::memory_order_release);  // release [consume]
        P::reached(FaultPoint::consume_stored);
    }

    // For who reads ahead, and has its slots kept until it says so: goes on to the next message, or to any that is kept.
    void go_on() noexcept {
        ++cursor_;
        if (++index_ == ring_.depth) index_ = 0;
    }
    void go_to(std::uint64_t position) noexcept {
        cursor_ = position;
        index_ = static_cast<std::uint32_t>(position % ring_.depth);
    }
    // The writer may have the slots of the messages before `position`.
    void acknowledge(std::uint64_t position) noexcept {
        seat_->cursor.store(position, std::memory_order_release);  // release [consume]
    }

    // After copies and `consume`: wakes a writer that waits for us. False if we were evicted, and then what was copied
    // since the last `settle` must be thrown away: it may be torn.
    bool settle() noexcept {
        // [signal] for the cursor stored; and [evict]: if a copied byte came from a later message, the writer's fence
        // [evict] came before ours, and the load of the state below sees EVICTED.
        P::fence_seq_cst();
        P::reached(FaultPoint::settle_fenced);
        const std::uint32_t waited_for = ring_.control->writer_parked.word.load(std::memory_order_relaxed);
        if (waited_for == token_ || waited_for == kAnySeat) unpark<P>(ring_.control->writer_parked);
        return still_seated();
    }
    bool still_seated() const noexcept { return seat_->state.load(std::memory_order_relaxed) == active_word_; }

private:
    RingView<P> ring_;
    Seat<P>* seat_;
    std::uint32_t token_;
    std::uint64_t cursor_;
    std::uint32_t index_;
    std::uint64_t active_word_;
};

}  // namespace ringcast
