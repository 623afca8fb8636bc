#include "sender.hpp"

#include <algorithm>

namespace ringcast {

namespace {
constexpr std::uint64_t kGrowthBytes = std::uint64_t{256} << 10;
}

Sender::Sender(std::shared_ptr<Segment> segment, const Strategy& strategy)
    : Endpoint(segment, strategy, segment->ring().control->writer_parked, segment->ring().control->cpus),
      ring_(segment->ring()),
      nameless_(!segment->named()),
      blocks_(segment->geometry().data_bytes),
      page_(platform::page_bytes()) {
    refresh_placement();
}

void Sender::throw_too_large(std::uint64_t bytes) const {
    throw Error(ErrorCode::message_too_large, "the message takes " + std::to_string(bytes) +
                                                  " bytes, but max_chunk_bytes of this queue is " +
                                                  std::to_string(segment_->geometry().max_chunk_bytes));
}

bool Sender::place_block(std::uint64_t bytes, std::uint64_t& offset) {
    // The newest gate, not just a sufficient one: it is what lets the blocks start over while they are warm.
    ring_.refresh_gate();
    blocks_.release_before(ring_.gate());
    const auto place = blocks_.place(bytes);
    if (!place) {
        needed_ = blocks_.oldest_position() + 1;
        return false;
    }
    const std::uint64_t end = *place + round_up(bytes, ByteFifo::kBlockUnit);
    if (end > committed_) {
        const std::uint64_t generous = std::min(round_up(end, kGrowthBytes), segment_->geometry().data_bytes);
        const std::uint64_t exact = std::min(round_up(end, page_), segment_->geometry().data_bytes);
        std::uint64_t target = generous;
        if (!segment_->reserve_data(committed_, target)) {
            target = exact;
            if (exact == generous || !segment_->reserve_data(committed_, target)) {
                if (!blocks_.empty()) {  // the memory there is will do, once readers have read
                    needed_ = blocks_.oldest_position() + 1;
                    return false;
                }
                throw_capacity("sending a message of " + std::to_string(bytes) + " bytes", exact - committed_);
            }
        }
        committed_ = target;
    }
    offset = *place;
    return true;
}

void Sender::check_laggard() const {
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

std::uint32_t Sender::laggard_rank() const noexcept {
    return segment_->ring().seats[ring_.laggard()].rank.load(std::memory_order_relaxed);
}

std::uint32_t Sender::laggard_pid() const noexcept {
    return segment_->ring().seats[ring_.laggard()].pid.load(std::memory_order_relaxed);
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
