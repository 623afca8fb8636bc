#include "sender.hpp"

#include <algorithm>

namespace ringcast {

Sender::Sender(std::shared_ptr<Segment> segment, const Strategy& strategy)
    : Endpoint(segment, strategy, segment->ring().control->writer_parked, segment->ring().control->cpus),
      ring_(segment->ring()),
      nameless_(!segment->named()),
      arena_(*segment) {
    refresh_placement();
}

void Sender::check_size(std::uint64_t bytes) const {
    const Geometry& geometry = segment_->geometry();
    if (bytes <= geometry.data_budget) return;
    throw Error(ErrorCode::message_too_large,
                "the message takes " + std::to_string(bytes) + " bytes, but this queue may take only " +
                    std::to_string(geometry.data_budget) + " for all its large messages: raise max_bytes");
}

bool Sender::place_block(std::uint64_t bytes, Room& room) {
    check_size(bytes);
    // The newest gate, not just a sufficient one: the block that came back last is still in the cache.
    ring_.refresh_gate();
    arena_.reclaim(ring_.gate(), false);
    reclaimed_ = false;
    bool placed = arena_.place(bytes, room.place);
    if (!placed) {
        arena_.reclaim(ring_.gate(), true);
        placed = arena_.place(bytes, room.place);
    }
    if (!placed) {
        awaits_block_ = true;
        wanted_ = bytes;
        return false;
    }
    open_place_ = room.place;
    reserved_ = true;
    room.bytes = segment_->data() + room.place.offset;
    return true;
}

void Sender::reclaim() {
    ring_.refresh_gate();
    arena_.reclaim(ring_.gate(), true);
}

void Sender::give_back_idle() {
    ring_.refresh_gate();
    arena_.reclaim(ring_.gate(), false);
    arena_.give_back_idle(platform::monotonic_ns());
}

void Sender::count_oversize() noexcept {
    segment_->ring().control->oversize_messages.fetch_add(1, std::memory_order_relaxed);
}

void Sender::check_room() {
    if (awaits_block_) {
        const std::uint64_t blocks = arena_.blocks();
        reclaim();
        if (arena_.blocks() != blocks) reclaimed_ = true;
        if (!arena_.any_unread()) return;  // only views are in the way, of readers that live
    }
    const NativeSeat& seat = segment_->ring().seats[ring_.laggard()];
    const std::uint64_t word = seat.state.load(std::memory_order_acquire);
    if (seat_state(word) != SeatState::active || segment_->locks().is_held_by_another(seat_lock(ring_.laggard())))
        return;
    if (seat.state.load(std::memory_order_acquire) != word) return;  // it left just now
    throw Error(ErrorCode::reader_died, "the reader of rank " +
                                            std::to_string(seat.rank.load(std::memory_order_relaxed)) + " (pid " +
                                            std::to_string(seat.pid.load(std::memory_order_relaxed)) +
                                            ") died without leaving its seat; evict(rank) goes on without it");
}

std::string Sender::explain_wait() const {
    const auto& ring = segment_->ring();
    const auto who = [](const NativeSeat& seat) {
        return "the reader of rank " + std::to_string(seat.rank.load(std::memory_order_relaxed)) + " (pid " +
               std::to_string(seat.pid.load(std::memory_order_relaxed)) + ")";
    };
    const std::string unread = "messages unread: " + std::to_string(backlog());
    if (!awaits_block_) return who(ring.seats[ring_.laggard()]) + " to make room; " + unread;
    std::string text = "readers to release memory: " + arena_.explain_refusal(wanted_);
    for (std::uint32_t i = 0; i < ring.n_seats; ++i) {
        const std::uint64_t blocks = ring.seats[i].leased_blocks.load(std::memory_order_relaxed);
        if (blocks == 0 || !segment_->locks().is_held_by_another(seat_lock(i))) continue;
        text += "; " + who(ring.seats[i]) + " holds views of " + std::to_string(blocks) + " messages, " +
                in_units(ring.seats[i].leased_bytes.load(std::memory_order_relaxed));
    }
    if (arena_.any_unread()) text += "; " + who(ring.seats[ring_.laggard()]) + " is the furthest behind";
    return text + "; " + unread;
}

std::vector<std::uint32_t> Sender::missing_ranks() const {
    std::vector<std::uint32_t> missing = segment_->ranks();
    const auto& ring = segment_->ring();
    for (std::uint32_t i = 0; i < ring.n_seats; ++i) {
        if (seat_state(ring.seats[i].state.load(std::memory_order_acquire)) != SeatState::active) continue;
        std::erase(missing, ring.seats[i].rank.load(std::memory_order_relaxed));
    }
    return missing;
}

bool Sender::await_readers(std::int64_t until_ns) noexcept {
    return waiter_.slice(parked_, kAnySeat, until_ns, [this] { return stopped() || missing_ranks().empty(); });
}

void Sender::unlink_if_all_attached() {
    if (!missing_ranks().empty()) return;
    segment_->unlink();
    nameless_ = false;
}

void Sender::confirm_ready() {
    const auto& ring = segment_->ring();
    ring.control->all_ready.store(1, std::memory_order_release);  // release [ready]
    ring_.announce();                                             // [signal]
    if (nameless_) unlink_if_all_attached();
    refresh_placement();
}

void Sender::finish() noexcept {
    segment_->ring().control->closed.store(1, std::memory_order_release);  // release [closed]: after the last message
    ring_.announce();                                                      // [signal]
}

std::uint64_t Sender::undelivered_to_expected() const noexcept {
    const auto& ring = segment_->ring();
    for (std::uint32_t i = 0; i < ring.n_seats; ++i)
        if (seat_state(ring.seats[i].state.load(std::memory_order_acquire)) == SeatState::expected)
            return ring_.position();
    return 0;
}

bool Sender::await_expected(std::int64_t until_ns) noexcept {
    return waiter_.slice(parked_, kAnySeat, until_ns, [this] { return undelivered_to_expected() == 0; });
}

bool Sender::evict(std::uint32_t rank) noexcept {
    const auto& ring = segment_->ring();
    bool any = false;
    for (std::uint32_t i = 0; i < ring.n_seats; ++i)
        if (ring.seats[i].rank.load(std::memory_order_relaxed) == rank) any = ring_.evict(i) || any;
    return any;
}

std::uint64_t Sender::backlog() const noexcept {
    const auto& ring = segment_->ring();
    const std::uint64_t head = messages();
    std::uint64_t least = head;
    for (std::uint32_t i = 0; i < ring.n_seats; ++i)
        if (gates(ring.seats[i].state.load(std::memory_order_acquire)))
            least = std::min(least, ring.seats[i].cursor.load(std::memory_order_acquire));
    return head - least;
}

}  // namespace ringcast
