#include "sender.hpp"

#include <algorithm>

namespace ringcast {

Sender::Sender(std::shared_ptr<Segment> segment, const Strategy& strategy, const ReaderPolicy& policy)
    : Endpoint(segment, strategy, segment->ring().control->writer_parked, segment->ring().control->cpus),
      policy_(policy),
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
    reached(FaultPoint::block_placed);
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

bool Sender::has_died(std::uint32_t seat, std::uint64_t word) const {
    if (seat_state(word) != SeatState::active || segment_->locks().is_held_by_another(seat_lock(seat))) return false;
    // Else it left just now, or a restarted reader has taken it over.
    return segment_->ring().seats[seat].state.load(std::memory_order_acquire) == word;
}

std::optional<Eviction> Sender::drop_dead(std::uint32_t seat, std::uint64_t word) {
    if (policy_.dead == ReaderPolicy::Dead::evict) return evict_seat(seat, word, Eviction::Cause::dead);
    const NativeSeat& s = segment_->ring().seats[seat];
    const Peer peer{s.rank.load(std::memory_order_relaxed), s.pid.load(std::memory_order_relaxed)};
    throw Error(
        ErrorCode::reader_died,
        "the reader of rank " + std::to_string(*peer.rank) + " (pid " + std::to_string(peer.pid) +
            ") died without leaving its seat; evict(rank) goes on without it, as on_reader_death=\"evict\" does",
        peer);
}

std::optional<Eviction> Sender::evict_seat(std::uint32_t seat, std::uint64_t word, Eviction::Cause cause) noexcept {
    const NativeSeat& s = segment_->ring().seats[seat];
    const bool absent = seat_state(word) == SeatState::expected;
    const Eviction eviction{s.rank.load(std::memory_order_relaxed), absent ? 0 : s.pid.load(std::memory_order_relaxed),
                            absent ? Eviction::Cause::absent : cause,
                            messages() - std::min(messages(), s.cursor.load(std::memory_order_acquire))};
    return ring_.evict(seat, word) ? std::optional(eviction) : std::nullopt;
}

std::optional<Eviction> Sender::check_room(std::int64_t waited_ns) {
    const bool too_long = policy_.slow != ReaderPolicy::Slow::block && waited_ns >= policy_.patience_ns;
    const auto throw_full = [this] {
        throw Error(ErrorCode::queue_full, "the queue stayed full; it waits for " + explain_wait());
    };
    std::uint64_t needed = needed_;
    if (awaits_block_) {
        const std::uint64_t blocks = arena_.blocks();
        reclaim();
        if (arena_.blocks() != blocks) reclaimed_ = true;
        if (reclaimed_) return std::nullopt;
        if (!arena_
                 .any_unread()) {  // only views are in the way, of readers that live: evicting them would free nothing
            if (too_long) throw_full();
            return std::nullopt;
        }
        needed = arena_.oldest_unread() + 1;
    }
    const std::uint32_t laggard = ring_.laggard();
    const std::uint64_t word = segment_->ring().seats[laggard].state.load(std::memory_order_acquire);
    if (has_died(laggard, word)) return drop_dead(laggard, word);
    if (!too_long || ring_.seat_passed(laggard, needed)) return std::nullopt;
    if (policy_.slow == ReaderPolicy::Slow::raise) throw_full();
    return evict_seat(laggard, word, Eviction::Cause::slow);
}

std::optional<Eviction> Sender::check_attached() {
    for (std::uint32_t i = 0; i < segment_->ring().n_seats; ++i) {
        const std::uint64_t word = segment_->ring().seats[i].state.load(std::memory_order_acquire);
        if (!has_died(i, word)) continue;
        if (const auto eviction = drop_dead(i, word)) return eviction;
    }
    return std::nullopt;
}

std::string Sender::explain_wait() const {
    const auto& ring = segment_->ring();
    const auto who = [](const NativeSeat& seat) {
        const std::string rank = "the reader of rank " + std::to_string(seat.rank.load(std::memory_order_relaxed));
        if (seat_state(seat.state.load(std::memory_order_acquire)) == SeatState::expected)
            return rank + " (which has not attached)";
        return rank + " (" +
               platform::describe_process(seat.pid.load(std::memory_order_relaxed),
                                          seat.pid_namespace.load(std::memory_order_relaxed)) +
               ")";
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
        if (!is_attached(ring.seats[i])) continue;
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
    reached(FaultPoint::ready_stored);
    ring_.announce();  // [signal]
    if (nameless_) unlink_if_all_attached();
    refresh_placement();
}

void Sender::finish() noexcept {
    reached(FaultPoint::close_begin);
    segment_->ring().control->closed.store(1, std::memory_order_release);  // release [closed]: after the last message
    reached(FaultPoint::close_stored);
    ring_.announce();  // [signal]
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
        if (ring.seats[i].rank.load(std::memory_order_relaxed) == rank)
            any = ring_.evict(i, ring.seats[i].state.load(std::memory_order_relaxed)) || any;
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
