#include "sender.hpp"

#include <algorithm>

namespace ringcast {

Sender::Sender(std::shared_ptr<Segment> segment, const Strategy& strategy, const ReaderPolicy& policy)
    : Endpoint(segment, strategy, segment->ring().control->writer_parked, segment->ring().control->cpus,
               segment->ring().control->waits, kWritersIncarnation),
      ring_(segment->ring()),
      readers_(*segment, ring_, policy),
      arena_(*segment),
      holders_(segment->ring().n_seats) {
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
    const auto arena = arena_.lock();
    arena->reclaim(ring_.gate(), Arena::Look::hurried);
    bool placed = arena->place(bytes, room.place);
    if (!placed) {
        arena->reclaim(ring_.gate(), Arena::Look::asking);
        placed = arena->place(bytes, room.place);
    }
    if (!placed) {
        // Nobody says so when other programs give a full machine memory back.
        const bool machine_full = arena->refusal() == Arena::Refusal::machine;
        refuse(RoomWait{.for_block = true,
                        .bytes = bytes,
                        .frees = arena->frees(),
                        .retry_ns = machine_full ? platform::monotonic_ns() + kRetryNs : kForever});
        return false;
    }
    wait_.since_ns = 0;
    arena_.watch(arena);
    reached(FaultPoint::block_placed);
    open_place_ = room.place;
    reserved_ = true;
    room.bytes = segment_->data() + room.place.offset;
    return true;
}

void Sender::reclaim() {
    ring_.refresh_gate();
    arena_.lock()->reclaim(ring_.gate(), Arena::Look::asking);
}

void Sender::count_oversize() noexcept {
    segment_->ring().control->oversize_messages.fetch_add(1, std::memory_order_relaxed);
}

// A wait for room ends when room is found, not with the call that gives it up: the next refusal goes on with it, if there
// has been no room for such a message since it began. What was refused a slot lacked one all the time; what is refused
// memory would have found none before if no less was wanted then, or nothing has come back since.
void Sender::refuse(const RoomWait& wait) noexcept {
    const bool goes_on = wait_.since_ns != 0 && (!wait.for_block || wait.bytes <= wait_.bytes ||
                                                 (wait_.for_block && wait.frees == wait_.frees));
    const std::int64_t since_ns = wait_.since_ns;
    wait_ = wait;
    wait_.since_ns = since_ns;
    if (!goes_on) begin_room_wait();
}

void Sender::begin_room_wait() noexcept {
    wait_.since_ns = platform::monotonic_ns();
    // relaxed: only compared with a later look.
    for (std::size_t i = 0; i < holders_.size(); ++i)
        holders_[i] = segment_->ring().seats[i].state.load(std::memory_order_relaxed);
}

std::optional<Eviction> Sender::check_room(bool waits) {
    try {
        return deal_with_laggard(waits);
    } catch (...) {
        wait_.since_ns = 0;  // who is told, and tries again, has the whole patience again
        throw;
    }
}

std::optional<Eviction> Sender::deal_with_laggard(bool waits) {
    const ReaderPolicy& policy = readers_.policy();
    bool too_long = patience_over();
    const auto throw_full = [this] {
        throw Error(ErrorCode::queue_full,
                    "the queue stayed full; it waits for " + explain_wait(platform::Detail::looked_up));
    };
    const bool ask_kernel = waits || too_long || life_look_due();
    std::uint64_t needed = wait_.passed;
    if (wait_.for_block) {
        ring_.refresh_gate();
        std::optional<std::uint64_t> unread;
        {
            const auto arena = arena_.lock();
            arena->reclaim(ring_.gate(), ask_kernel ? Arena::Look::asking : Arena::Look::thorough);
            if (arena->frees() != wait_.frees) return std::nullopt;
            if (arena->any_unread()) unread = arena->oldest_unread();
        }
        // Only views are in the way, of readers that live: evicting them would free nothing.
        if (!unread) {
            if (too_long) throw_full();
            return std::nullopt;
        }
        needed = *unread + 1;
    }
    const std::uint32_t laggard = ring_.laggard();
    const std::uint64_t word = segment_->ring().seats[laggard].state.load(std::memory_order_acquire);  // acquire [join]
    if (readers_.is_gone(laggard, word, ask_kernel)) {
        life_look_.look_again();  // others may be gone
        return readers_.drop_gone(laggard, word);
    }
    // Of another machine's readers its link knows who is in the way, and drops that one alone.
    const bool stream = is_stream(segment_->ring(), laggard);
    if (stream) readers_.check_stream(laggard);
    if (too_long && word != holders_[laggard]) {  // it has come since, and has its own patience
        begin_room_wait();
        too_long = policy.patience_ns == 0;
    }
    if (!too_long || ring_.seat_passed(laggard, needed)) return std::nullopt;
    if (policy.slow == ReaderPolicy::Slow::raise) throw_full();
    if (stream) return std::nullopt;
    return readers_.evict_seat(laggard, word, Eviction::Cause::slow);
}

std::string Sender::explain_wait(platform::Detail detail) const {
    const auto& ring = segment_->ring();
    const std::string unread = "messages unread: " + std::to_string(backlog());
    if (!wait_.for_block) return readers_.describe(ring_.laggard(), detail) + " to make room; " + unread;
    const auto arena = arena_.lock();
    const std::uint64_t loaned = arena->loaned_blocks();
    std::string text =
        (loaned == 0 ? "readers to release memory: " : "memory to be released: ") + arena->explain_refusal(wait_.bytes);
    if (loaned != 0)
        text +=
            "; this very process holds " + std::to_string(loaned) +
            " of them by arrays or views of its own chunks (loan_array, loan, acquire_write): delete those, or keep "
            "copies (`array.copy()`) instead";
    if (arena->any_unread()) text += "; " + readers_.describe(ring_.laggard(), detail) + " is the furthest behind";
    for (std::uint32_t i = 0; i < ring.n_seats; ++i) {
        const std::uint64_t blocks = ring.seats[i].leased_blocks.load(std::memory_order_relaxed);
        if (blocks == 0) continue;
        // The dead hold nothing, whatever their seats say.
        if (detail == platform::Detail::looked_up && !segment_->locks().is_held_by_another(seat_lock(i))) continue;
        text += "; " + readers_.describe(i, detail) + " holds views of " + std::to_string(blocks) + " messages, " +
                in_units(ring.seats[i].leased_bytes.load(std::memory_order_relaxed));
    }
    return text + "; " + unread;
}

std::uint64_t Sender::backlog() const noexcept {
    const auto& ring = segment_->ring();
    const std::uint64_t head = messages();
    std::uint64_t least = head;
    for (std::uint32_t i = 0; i < ring.n_seats; ++i)
        if (gates(ring.seats[i].state.load(std::memory_order_acquire)))                     // acquire [join]
            least = std::min(least, ring.seats[i].cursor.load(std::memory_order_acquire));  // acquire [consume]
    return head - least;
}

}  // namespace ringcast
