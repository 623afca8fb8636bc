#include "tap.hpp"

#include <cstring>

namespace ringcast {

TapClaim claim_tap(const Segment& segment, bool promised) {
    const auto& ring = segment.ring();
    const auto& locks = segment.locks();
    const auto claim = [&](std::uint32_t i, SeatState wanted) -> std::optional<TapClaim> {
        NativeSeat& seat = ring.seats[i];
        const auto is_wanted = [&] {
            return seat_state(seat.state.load(std::memory_order_acquire)) == wanted;  // acquire [join]
        };
        if (!is_wanted() || !locks.try_lock(seat_lock(i))) return std::nullopt;
        Claimed taken{};
        if (is_wanted()) {
            seat.rank.store(kStream, std::memory_order_relaxed);
            seat.pid.store(platform::process_id(), std::memory_order_relaxed);
            seat.pid_namespace.store(platform::pid_namespace(), std::memory_order_relaxed);
            seat.leased_blocks.store(0, std::memory_order_relaxed);
            seat.leased_bytes.store(0, std::memory_order_relaxed);
            if (take_seat(ring, seat, Start::promised, taken))
                return TapClaim{i, taken.first, wanted == SeatState::expected};
        }
        locks.unlock(seat_lock(i));
        return std::nullopt;
    };
    for (std::uint32_t i = ring.n_local; promised && i < ring.n_local + ring.n_remote; ++i)
        if (const auto made = claim(i, SeatState::expected)) return *made;
    for (const SeatState state : {SeatState::vacant, SeatState::forgone, SeatState::evicted})
        for (std::uint32_t i = ring.n_local; i < ring.n_seats; ++i)
            if (const auto made = claim(i, state)) return *made;
    throw Error(ErrorCode::rank_taken, segment.label() + ": all " + std::to_string(ring.n_seats) +
                                           " seats are taken, so that no other machine can read it");
}

Tap::Tap(std::shared_ptr<Segment> segment, const Strategy& strategy, const TapClaim& claim)
    : Endpoint(segment, strategy, segment->ring().seats[claim.seat]),
      claim_(claim),
      ring_(segment->ring(), claim.seat, claim.first),
      acknowledged_(claim.first) {
    refresh_placement();
}

Receiver::Message Tap::current() {
    Descriptor d;
    std::memcpy(&d, &ring_.slot().descriptor, sizeof d);
    if (const auto message = Receiver::checked(*segment_, ring_.slot(), d)) return *message;
    check();
    throw Error(ErrorCode::corrupt, "message " + std::to_string(ring_.cursor()) +
                                        " has an impossible descriptor: its memory was overwritten");
}

namespace {
// Up to so many, a copy is cheaper than another piece for the system call.
constexpr std::size_t kCopiedBytes = 2 << 10;
}  // namespace

void Batch::add_own(const std::byte* bytes, std::size_t length) {
    std::byte* const at = own_.get() + own_bytes_;
    if (length != 0) std::memcpy(at, bytes, length);
    own_bytes_ += length;
    if (!pieces_.empty() && pieces_.back().data() + pieces_.back().size() == at)
        pieces_.back() = {pieces_.back().data(), pieces_.back().size() + length};
    else
        pieces_.emplace_back(at, length);
}

void Batch::add(const BatchHead& head, const std::byte* bytes) {
    add_own(reinterpret_cast<const std::byte*>(&head), sizeof head);
    if (head.length <= kCopiedBytes)
        add_own(bytes, head.length);
    else
        pieces_.emplace_back(bytes, head.length);
    bytes_ += sizeof head + head.length;
}

void Tap::gather(Batch& batch, std::uint64_t longest) {
    const std::lock_guard guard(mutex_);
    while (!left_ && ring_.readable()) {
        const Receiver::Message message = current();
        if (message.length >= longest || sizeof(BatchHead) + message.length > batch.room()) break;
        batch.add({static_cast<std::uint32_t>(message.length), message.encoding,
                   static_cast<std::uint8_t>(message.framed ? 1 : 0), 0},
                  message.bytes);
        if (message.in_block()) blocks_.push_back({ring_.cursor(), message.row});
        ring_.go_on();
    }
    if (!batch.empty()) check();
}

std::optional<Receiver::Message> Tap::peek() {
    const std::lock_guard guard(mutex_);
    if (left_ || !ring_.readable()) return std::nullopt;
    return current();
}

void Tap::take() {
    const std::lock_guard guard(mutex_);
    if (left_) return;
    const Receiver::Message message = current();
    if (message.in_block()) blocks_.push_back({ring_.cursor(), message.row});
    ring_.go_on();
}

void Tap::check() const {
    if (!ring_.intact()) throw Error(ErrorCode::reader_evicted, "the writer has taken the seat of this link away");
}

bool Tap::acknowledge(std::uint64_t position) noexcept {
    const std::lock_guard guard(mutex_);
    if (position < acknowledged_ || position > ring_.cursor()) return false;
    if (left_) return true;  // the seat may be somebody else's by now
    while (!blocks_.empty() && blocks_.front().position < position) {
        mark_done(segment_->ring(), claim_.seat, blocks_.front().row, mark_of(blocks_.front().position));
        blocks_.pop_front();
    }
    acknowledged_ = position;
    ring_.acknowledge(position);
    ring_.settle();
    return true;
}

void Tap::go_back() noexcept {
    const std::lock_guard guard(mutex_);
    blocks_.clear();
    ring_.go_to(acknowledged_);
}

std::uint32_t Tap::orders() const noexcept {
    const auto& ring = segment_->ring();
    std::uint32_t orders = 0;
    // relaxed: the handshake of parking orders them.
    for (std::uint32_t i = 0; i < ring.n_remote; ++i) orders += ring.board[i].evict.load(std::memory_order_relaxed);
    return orders;
}

bool Tap::something() const noexcept {
    return ring_.readable() || stopped() || segment_->ring().control->closed.load(std::memory_order_relaxed) != 0 ||
           orders() != orders_seen_ || (!ready_seen_ && all_ready()) || !ring_.still_seated() || roused();
}

bool Tap::await(std::int64_t until_ns) {
    begin_wait();
    bool found = waiter_.briefly([this] { return something(); });
    if (!found) found = waiter_.slice(parked_, 1, until_ns, [this] { return something(); });
    waiter_.finish(found);
    // What comes just when the time is over is not taken for seen.
    const std::uint32_t orders_now = orders();
    const bool ready_now = all_ready();
    found = found || orders_now != orders_seen_ || ready_now != ready_seen_;
    orders_seen_ = orders_now;
    ready_seen_ = ready_now;
    return take_rouse() || found;
}

Ending Tap::ending(bool look_at_life) const {
    // The kernel is asked before the word, and the word looked at before the slot: what was published comes first.
    const bool died = look_at_life && !segment_->creator_alive();
    auto why =
        static_cast<Ending>(segment_->ring().control->closed.load(std::memory_order_acquire));  // acquire [closed]
    if (why == Ending::none && died) why = Ending::writer_died;
    return ring_.readable() ? Ending::none : why;
}

void Tap::finish() noexcept {
    keep_counts();
    const std::lock_guard guard(mutex_);
    left_ = true;
    const auto& ring = segment_->ring();
    leave_seat(ring, ring.seats[claim_.seat], !failed_);
    segment_->locks().unlock(seat_lock(claim_.seat));
    segment_->unlink_if_abandoned();
}

}  // namespace ringcast
