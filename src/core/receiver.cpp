#include "receiver.hpp"

#include <algorithm>

#include "ranks.hpp"

namespace ringcast {

namespace {

std::string list_of(const std::vector<std::uint32_t>& ranks) {
    std::string text;
    for (const std::uint32_t rank : ranks) text += (text.empty() ? "" : ", ") + std::to_string(rank);
    return text.empty() ? "none" : text;
}

// Who has the rank, or views of its messages.
std::string holder_of(const Segment& segment, std::uint32_t rank) {
    const auto& ring = segment.ring();
    for (std::uint32_t i = 0; i < ring.n_seats; ++i) {
        const NativeSeat& seat = ring.seats[i];
        const std::uint64_t word = seat.state.load(std::memory_order_acquire);  // acquire [join]
        if (!is_held(word) || seat.rank.load(std::memory_order_relaxed) != rank) continue;
        const std::uint32_t pid = seat.pid.load(std::memory_order_relaxed);
        const std::string process =
            "process " + std::to_string(pid) + (pid == platform::process_id() ? " (this process)" : "");
        if (seat_state(word) == SeatState::active) return process;
        return process + ", whose reader was ended by an exception, but which still has views of messages";
    }
    return "a process that is just attaching or leaving";
}

// Which seats a claimant of `rank` may have, if it gets their lock. Home seats of other ranks stay theirs, and another
// rank's dead reader is for the writer to find.
bool may_claim(const NativeSeat& seat, std::uint32_t rank, bool is_home, bool is_spare) {
    const std::uint64_t word = seat.state.load(std::memory_order_acquire);  // acquire [join]
    if (is_held(word)) return seat.rank.load(std::memory_order_relaxed) == rank;
    const SeatState state = seat_state(word);
    if (state == SeatState::expected || state == SeatState::forgone) return is_home;
    return is_home || is_spare;
}

// The seat made for the rank if it can be had, else any spare one. The caller holds the rank's lock.
std::optional<Claim> try_claim(const Segment& segment, std::uint32_t home, Start start) {
    const auto& ring = segment.ring();
    const auto& locks = segment.locks();
    const auto& ranks = segment.ranks();
    const std::uint32_t rank = ranks[home];
    const auto claim = [&](std::uint32_t i) -> std::optional<Claim> {
        NativeSeat& seat = ring.seats[i];
        if (!may_claim(seat, rank, i == home, i >= ranks.size()) || !locks.try_lock(seat_lock(i))) return std::nullopt;
        reached(FaultPoint::claim_locked);
        seat.rank.store(rank, std::memory_order_relaxed);
        seat.pid.store(platform::process_id(), std::memory_order_relaxed);
        seat.pid_namespace.store(platform::pid_namespace(), std::memory_order_relaxed);
        seat.leased_blocks.store(0, std::memory_order_relaxed);
        seat.leased_bytes.store(0, std::memory_order_relaxed);
        Claimed taken{};
        if (!take_seat(ring, seat, start, taken)) {
            locks.unlock(seat_lock(i));
            return std::nullopt;
        }
        const bool was_kept = gates(seat_word(0, taken.before));
        if (segment.is_promised()) {
            if (was_kept && taken.first != taken.since) note_absence(ring.seats[home], taken.since, 0);
            note_presence(ring.seats[home], taken.first);
        }
        return Claim{i, rank, taken.first, was_kept ? taken.first - taken.since : 0,
                     taken.before == SeatState::forgone && start == Start::promised};
    };
    // A dead predecessor's seat comes first: the writer waits for its cursor. There is no other while its lock is held.
    for (std::uint32_t i = 0; i < ring.n_seats; ++i)
        if (const NativeSeat& seat = ring.seats[i];
            is_held(seat.state.load(std::memory_order_relaxed)) && seat.rank.load(std::memory_order_relaxed) == rank)
            return claim(i);
    if (const auto made = claim(home)) return made;
    // Nor while its home is kept for it: the writer would wait there for ever.
    const SeatState state = seat_state(ring.seats[home].state.load(std::memory_order_relaxed));
    if (state == SeatState::expected || state == SeatState::forgone) return std::nullopt;
    for (auto i = static_cast<std::uint32_t>(ranks.size()); i < ring.n_seats; ++i)
        if (const auto made = claim(i)) return made;
    return std::nullopt;
}

// Is anything kept for the rank, or has it been told nothing yet of what was not?
bool is_promised(const Segment& segment, std::uint32_t home) {
    const auto& ring = segment.ring();
    const SeatState state = seat_state(ring.seats[home].state.load(std::memory_order_relaxed));
    if (state == SeatState::expected || state == SeatState::forgone) return true;
    for (std::uint32_t i = 0; i < ring.n_seats; ++i)
        if (is_held(ring.seats[i].state.load(std::memory_order_relaxed)) &&
            ring.seats[i].rank.load(std::memory_order_relaxed) == segment.ranks()[home])
            return true;
    return false;
}

}  // namespace

Claim claim_seat(const Segment& segment, std::optional<std::uint32_t> wanted) {
    const auto& ranks = segment.ranks();
    std::vector<std::uint32_t> candidates;  // as indices
    for (std::uint32_t i = 0; i < ranks.size(); ++i)
        if (!wanted || ranks[i] == *wanted) candidates.push_back(i);
    if (candidates.empty() && wanted)
        throw Error(ErrorCode::rank_unknown, segment.label() + ": rank " + std::to_string(*wanted) +
                                                 " is not one of its local ranks: " + list_of(ranks));
    // Who comes to a queue by its name, and asks for no rank, asks for nothing that was kept. What has no name is known to
    // those only whom its handle promises everything.
    const Start start = wanted || !segment.named() ? Start::promised : Start::head;
    if (start == Start::head)
        std::stable_partition(candidates.begin(), candidates.end(),
                              [&](std::uint32_t home) { return !is_promised(segment, home); });
    bool no_seat = false;
    for (const std::uint32_t home : candidates) {
        // The rank's lock byte is held for as long as the end is open: it makes a rank unique among living readers.
        if (!segment.locks().try_lock(rank_lock(ranks[home]))) continue;
        if (const auto claim = try_claim(segment, home, start)) return *claim;
        segment.locks().unlock(rank_lock(ranks[home]));
        no_seat = true;
    }
    if (wanted)
        throw Error(ErrorCode::rank_taken, segment.label() + ": rank " + std::to_string(*wanted) + " is taken by " +
                                               holder_of(segment, *wanted));
    if (no_seat)
        throw Error(ErrorCode::rank_taken, segment.label() + ": all " + std::to_string(segment.ring().n_seats) +
                                               " seats are taken by readers that have left or were evicted, and whose "
                                               "processes still have views of messages");
    throw Error(ErrorCode::rank_taken, segment.label() + ": all ranks are taken: " + list_of(ranks));
}

Receiver::Receiver(std::shared_ptr<Segment> segment, const Strategy& strategy, const Claim& claim)
    : Endpoint(segment, strategy, segment->ring().seats[claim.seat]),
      claim_(claim),
      hold_(std::make_shared<SeatHold>(segment, claim.seat)),
      ring_(segment->ring(), claim.seat, claim.first) {
    refresh_placement();
}

NativeSeat& Receiver::home() const noexcept {
    const auto& ranks = segment_->ranks();
    return segment_->ring().seats[std::find(ranks.begin(), ranks.end(), claim_.rank) - ranks.begin()];
}

void Receiver::note_lost(std::uint64_t messages) const noexcept {
    if (segment_->is_promised()) home().missed.fetch_add(messages, std::memory_order_relaxed);
}

void Receiver::finish() noexcept {
    keep_counts();
    const auto& ring = segment_->ring();
    const bool in_order = !failed_.load(std::memory_order_relaxed);
    if (in_order && segment_->is_promised()) note_absence(home(), ring_.cursor(), platform::process_id());
    leave_seat(ring, ring.seats[claim_.seat], in_order);
    if (hold_->in_selection()) {  // which keeps the seat, and sees that it has been left
        Native::fence_seq_cst();  // [signal]
        unpark<Native>(parked_);
    }
    hold_.reset();  // drops the seat's lock, unless leases keep it
    reached(FaultPoint::leave_released);
    segment_->locks().unlock(rank_lock(claim_.rank));
    segment_->unlink_if_abandoned();
}

// A share is what all seats may view, each, without looking at each other: together a quarter. Beyond it, a seat that
// views more than a quarter, or that views anything while all view more than a half, gets copies, and so does who would
// leave no room for another message of this size.
bool Receiver::views_enough(std::uint64_t bytes) const noexcept {
    const auto& ring = segment_->ring();
    const std::uint64_t budget = segment_->geometry().data_budget;
    const std::uint64_t rows = segment_->geometry().max_leases;
    const NativeSeat& mine = ring.seats[claim_.seat];
    const std::uint64_t own_rows = mine.leased_blocks.load(std::memory_order_relaxed);
    const std::uint64_t own_bytes = mine.leased_bytes.load(std::memory_order_relaxed);
    const std::uint64_t shares = std::uint64_t{4} * ring.n_seats;
    if (own_rows <= rows / shares && own_bytes + bytes <= budget / shares) return false;
    if (own_rows * 4 >= rows || (own_rows >= 2 && own_bytes * 4 >= budget)) return true;
    std::uint64_t all_rows = 0;
    std::uint64_t all_bytes = 0;
    for (std::uint32_t i = 0; i < ring.n_seats; ++i) {
        all_rows += ring.seats[i].leased_blocks.load(std::memory_order_relaxed);
        all_bytes += ring.seats[i].leased_bytes.load(std::memory_order_relaxed);
    }
    // Seats that view the same messages are counted as if each had its own: no more than what is in use is viewed.
    all_rows = std::min(all_rows, ring.control->blocks_in_use.load(std::memory_order_relaxed));
    all_bytes = std::min(all_bytes, ring.control->block_bytes_in_use.load(std::memory_order_relaxed));
    if (own_rows >= 1 && (all_rows * 2 >= rows || all_bytes * 2 >= budget)) return true;
    return all_bytes + 2 * bytes > budget;
}

void Receiver::throw_corrupt(const Descriptor& descriptor) const {
    if (!ring_.intact()) throw_evicted();
    throw Error(ErrorCode::corrupt,
                "message " + std::to_string(ring_.cursor()) + " of segment '" + segment_->name() +
                    "' has an impossible descriptor (length " + std::to_string(descriptor.length) + ", block " +
                    std::to_string(descriptor.block) + ", row " + std::to_string(descriptor.row) + ", encoding " +
                    std::to_string(static_cast<int>(descriptor.encoding)) + "): its memory was overwritten");
}

void Receiver::check_end(bool look_at_life) {
    // The state is looked at after the queue's end: who was evicted before that has not read every message.
    const bool closed = writer_closed();
    if (!ring_.still_seated()) throw_evicted();
    if (closed) {
        if (ring_.readable()) return;  // published before it was closed
        if (ending() != Ending::closed) throw_origin_lost(ending());
        throw Error(ErrorCode::closed, "the writer has closed the queue and every message has been read");
    }
    // The slot is looked at after the death is certain: what was published before it comes first.
    if (look_at_life && writer_died()) {
        if (!ring_.still_seated()) throw_evicted();
        if (!ring_.readable()) throw_writer_died();
    }
}

void Receiver::check_writer_lives() {
    if (writer_died()) throw_writer_died();
}

// Of a relay.
void Receiver::throw_origin_lost(Ending why) {
    const Source source = segment_->source();
    const std::string writer = "the writer (host " + source.host + ", pid " + std::to_string(source.pid) + ")";
    const Peer peer{std::nullopt, source.pid};
    if (why == Ending::writer_died)
        throw Error(ErrorCode::writer_died, writer + " died without closing the queue; what it published has been read",
                    peer);
    const std::string reason = text_of(segment_->ring().control->reason, kReasonBytes);
    throw Error(ErrorCode::link_died,
                "the link to " + writer + " is lost" + (reason.empty() ? "" : ": " + reason) +
                    "; what had arrived has been read",
                peer);
}

void Receiver::throw_writer_died() {
    life_look_.look_again();  // and is told again
    const std::string rest = ring_.readable() ? "can still be read" : "has been read";
    if (segment_->is_relay()) {
        const Source source = segment_->source();
        throw Error(ErrorCode::link_died,
                    "the link process here (pid " + std::to_string(segment_->header().creator_pid) +
                        "), which passes on what the writer (host " + source.host + ", pid " +
                        std::to_string(source.pid) + ") sends, died; what had arrived " + rest,
                    Peer{std::nullopt, segment_->header().creator_pid});
    }
    throw Error(ErrorCode::writer_died,
                "the writer (pid " + std::to_string(segment_->header().creator_pid) +
                    ") died without closing the queue; what it published " + rest,
                Peer{std::nullopt, segment_->header().creator_pid});
}

std::uint64_t Receiver::backlog() const noexcept {
    const auto& ring = segment_->ring();
    const std::uint64_t head = ring.control->head.load(std::memory_order_relaxed);
    const std::uint64_t cursor = ring.seats[claim_.seat].cursor.load(std::memory_order_relaxed);
    return head > cursor ? head - cursor : 0;
}

void Receiver::throw_evicted() const {
    throw Error(ErrorCode::reader_evicted,
                "the writer evicted rank " + std::to_string(claim_.rank) +
                    " of this queue; attach again to go on from the newest message",
                Peer{claim_.rank, platform::process_id()});
}

}  // namespace ringcast
