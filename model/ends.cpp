#include "ends.hpp"

#include <algorithm>

namespace model {

using ringcast::kInline;

namespace {

std::string word_text(std::uint64_t word) {
    static constexpr std::array<const char*, 4> kNames{"VACANT", "EXPECTED", "ACTIVE", "EVICTED"};
    return kNames[word & 3] + ("(" + std::to_string(ringcast::seat_incarnation(word))) + ")";
}

}  // namespace

World::World(const Shape& shape) : blocks(shape.blocks), attached(shape.state == SeatState::active) {
    const auto rounded = [](std::size_t bytes) {
        return (bytes + ringcast::kLinePair - 1) / ringcast::kLinePair * ringcast::kLinePair;
    };
    const std::size_t slot_bytes = rounded(sizeof(ringcast::SlotHeader<Policy>) + sizeof(std::uint64_t));
    const std::size_t column_bytes = rounded(std::max(shape.blocks, 1u) * sizeof(Policy::atomic<std::uint64_t>));
    const std::size_t seats_at = rounded(sizeof(ringcast::Control<Policy>));
    const std::size_t slots_at = seats_at + shape.seats * sizeof(Seat);
    const std::size_t marks_at = slots_at + shape.depth * slot_bytes;
    const std::size_t data_at = marks_at + (shape.seats + 1) * column_bytes;
    const std::size_t bytes = data_at + shape.blocks * kBlockBytes;
    memory_.reset(new (std::align_val_t{ringcast::kLinePair}) std::byte[bytes]());
    std::byte* base = memory_.get();
    SharedBytes::begin = base;
    SharedBytes::end = base + bytes;
    data_ = base + data_at;
    SharedBytes::strict = data_;
    ring.control = new (base) ringcast::Control<Policy>{};
    ring.seats = reinterpret_cast<Seat*>(base + seats_at);
    ring.slots = base + slots_at;
    ring.n_seats = shape.seats;
    ring.depth = shape.depth;
    ring.slot_bytes = static_cast<std::uint32_t>(slot_bytes);
    ring.marks = base + marks_at;
    ring.mark_column_bytes = static_cast<std::uint32_t>(column_bytes);

    Explorer& explorer = Explorer::the();
    explorer.forget_locations();
    explorer.name(&ring.control->head, "head");
    explorer.name(&ring.control->writer_parked, "writer's parked word");
    explorer.name(&ring.control->closed, "closed");
    for (std::uint32_t i = 0; i < shape.seats; ++i) {
        Seat& seat = *new (&ring.seats[i]) Seat{};
        seat.state.store(ringcast::seat_word(0, shape.state), std::memory_order_relaxed);
        const std::string of = "seat " + std::to_string(i) + "'s ";
        explorer.name(&seat.state, of + "state");
        explorer.name(&seat.joined_at, of + "join position");
        explorer.name(&seat.cursor, of + "cursor");
        explorer.name(&seat.parked, of + "parked word");
        for (std::uint32_t row = 0; row < shape.blocks; ++row) {
            auto& mark = ring.mark(i, row);
            new (&mark) Policy::atomic<std::uint64_t>{};
            explorer.name(&mark, of + "mark of row " + std::to_string(row));
        }
    }
    for (std::uint32_t i = 0; i < shape.depth; ++i) {
        auto& slot = *new (&ring.slot(i)) ringcast::SlotHeader<Policy>{};
        const std::string of = "slot " + std::to_string(i) + "'s ";
        explorer.name(&slot.sequence, of + "sequence");
        explorer.name(&slot.descriptor, of + "descriptor");
        explorer.name(Ring::inline_area(slot), of + "bytes");
    }
    for (std::uint32_t i = 0; i < shape.blocks; ++i) explorer.name(block(i), "block " + std::to_string(i));
    explorer.describe_with([](const std::string& location, std::uint64_t value) -> std::string {
        if (location.ends_with("state")) return word_text(value);
        if (location.ends_with("join position") && value == ringcast::kJoining) return "joining";
        if (location.ends_with("parked word") && value == ringcast::kAnySeat) return "any seat";
        return std::to_string(value);
    });
}

void World::start() {
    published = 0;
    Explorer::the().hold(kWriterLock, 0);
    for (std::uint8_t i = 0; attached && i < ring.n_seats; ++i) {
        holder[i] = static_cast<std::uint8_t>(i + 1);
        Explorer::the().hold(i, holder[i]);
    }
}

// ---- The writer

void Writer::publish(const Descriptor& descriptor) {
    ++world_.published;
    ring_.publish(descriptor);
}

void Writer::send(Announce announce) {
    await_slot();
    const std::uint64_t bytes = content(ring_.position());
    Policy::copy(Ring::inline_area(ring_.slot()), &bytes, sizeof bytes);
    publish(Descriptor{content(ring_.position()), kInline, 0, {}, 0, {}});
    if (announce == Announce::now) ring_.announce();
}

void Writer::close() {
    world_.ring.control->closed.store(1, std::memory_order_release);
    ring_.announce();
}

bool Writer::evict(std::uint32_t seat, std::uint64_t word) {
    const bool held = ringcast::seat_state(word) == SeatState::active;
    const bool evicted = ring_.evict(seat, word);
    // From here on the writer may overwrite what the holder is copying.
    if (evicted && held) Explorer::the().excuse(world_.holder[seat]);
    return evicted;
}

void Writer::await_slot() {
    const std::uint64_t needed = ring_.needed_for_slot();
    while (!ring_.passed(needed)) {
        const std::uint32_t laggard = ring_.laggard();
        if (sleep(world_.ring.control->writer_parked, laggard + 1,
                  [&] { return ring_.seat_passed(laggard, needed); }) &&
            !drop_dead(laggard))
            Explorer::the().expect(Explorer::the().any_killed() || !ring_.passed(needed),
                                   "lost wake-up: there is room, and nobody has woken the writer");
    }
}

// As Sender::check_room with on_reader_death="evict".
bool Writer::drop_dead(std::uint32_t seat) {
    Seat& s = world_.ring.seats[seat];
    const std::uint64_t word = s.state.load(std::memory_order_acquire);
    if (ringcast::seat_state(word) != SeatState::active || Explorer::the().is_locked(seat, Site::current()))
        return false;
    return s.state.load(std::memory_order_acquire) == word && evict(seat, word);
}

void Writer::await_readers() {
    const auto all = [&] {
        for (std::uint32_t i = 0; i < world_.ring.n_seats; ++i)
            if (!ringcast::is_attached(world_.ring.seats[i])) return false;
        return true;
    };
    while (!all()) sleep(world_.ring.control->writer_parked, ringcast::kAnySeat, all);
}

// As Arena::is_held, reclaim, and Sender::place_block.
bool Writer::is_held(const Block& block, bool ask_kernel) {
    for (std::uint32_t column = 0; column < world_.ring.n_seats; ++column)
        if (may_read(world_.ring, column, block.row, block.position) &&
            (!ask_kernel || Explorer::the().is_locked(column, Site::current())))
            return true;
    return false;
}

void Writer::reclaim(std::uint64_t gate, bool ask_kernel) {
    while (n_unread_ > 0 && unread_[0].position < gate) {
        held_[n_held_++] = unread_[0];
        std::copy(unread_.begin() + 1, unread_.begin() + n_unread_, unread_.begin());
        --n_unread_;
    }
    for (std::uint32_t i = 0; i < n_held_;) {
        if (is_held(held_[i], ask_kernel)) {
            ++i;
            continue;
        }
        free_[n_free_++] = held_[i].row;
        held_[i] = held_[--n_held_];
    }
}

bool Writer::take_block(std::uint32_t& row) {
    for (const bool ask_kernel : {false, true}) {
        if (!ask_kernel) ring_.refresh_gate();
        reclaim(ring_.gate(), ask_kernel);
        if (n_free_ == 0) continue;
        row = free_[--n_free_];
        return true;
    }
    return false;
}

bool Writer::may_have_block() {
    if (n_unread_ > 0 && ring_.seat_passed(ring_.laggard(), unread_[0].position + 1)) return true;
    for (std::uint32_t i = 0; i < n_held_; ++i)
        if (!is_held(held_[i], false)) return true;
    return false;
}

void Writer::send_block() {
    await_slot();
    std::uint32_t row = 0;
    while (!take_block(row))
        if (sleep(world_.ring.control->writer_parked, ringcast::kAnySeat, [&] { return may_have_block(); }) &&
            n_unread_ > 0)
            drop_dead(ring_.laggard());
    const std::uint64_t bytes = content(ring_.position());
    Policy::copy(world_.block(row), &bytes, sizeof bytes);
    unread_[n_unread_++] = Block{ring_.position(), row};
    publish(Descriptor{content(ring_.position()), row * World::kBlockBytes, row, {}, 0, {}});
    ring_.announce();
}

// ---- The reader

bool Reader::attach() {
    if (world_.attached && world_.holder[index_] == Explorer::the().self()) return true;
    Explorer::the().lock(index_, Site::current());
    world_.holder[index_] = Explorer::the().self();
    if (!ringcast::take_seat(world_.ring, world_.ring.seats[index_], first_)) {
        unlock();
        return false;
    }
    next_ = first_;
    Policy::fence_seq_cst();  // [signal]: a seat has been taken
    ringcast::unpark<Policy>(world_.ring.control->writer_parked);
    return true;
}

// As Receiver::await_message, and check_end behind it.
Ended Reader::await_message(ringcast::RingReader<Policy>& ring) {
    const auto closed = [&] { return world_.ring.control->closed.load(std::memory_order_acquire) == 1; };
    while (!ring.readable()) {
        // In this order: who learns that the queue is closed knows whether it had been evicted before.
        const bool ended = closed();
        if (!ring.still_seated()) return Ended::evicted;
        if (ended) {
            if (ring.readable()) break;
            return Ended::closed;
        }
        const bool timed_out = sleep(world_.ring.seats[index_].parked, 1,
                                     [&] { return ring.readable() || closed() || !ring.still_seated(); });
        if (timed_out && !Explorer::the().is_locked(World::kWriterLock, Site::current()) && !closed()) {
            if (!ring.still_seated()) return Ended::evicted;
            if (!ring.readable()) return Ended::writer_died;
        }
    }
    return Ended::enough;
}

// Copies or leases the message that is there. False: evicted.
bool Reader::receive(ringcast::RingReader<Policy>& ring, bool lease) {
    Explorer& explorer = Explorer::the();
    Descriptor descriptor{};
    Policy::copy(&descriptor, &ring.slot().descriptor, sizeof descriptor);
    std::uint64_t bytes = 0;
    const std::uint64_t position = ring.cursor();
    if (world_.blocks == 0) {
        Policy::copy(&bytes, Ring::inline_area(ring.slot()), sizeof bytes);
        ring.consume();
    } else {
        if (!ring.intact()) return false;
        explorer.expect(descriptor.length == content(position), "a descriptor that is not the message's was believed");
        leased_ = {position, world_.index_of(descriptor.block), descriptor.row};
        Policy::copy(&bytes, world_.block(leased_.block), sizeof bytes);
        if (!lease) ringcast::mark_done(world_.ring, index_, leased_.row, ringcast::mark_of(position));
        ring.consume();
    }
    if (!ring.settle()) return false;
    explorer.expect(position == next_, "a message was read twice or left out");
    explorer.expect(descriptor.length == content(position) && bytes == content(position),
                    "a message that is torn, or not the one at its position, was delivered");
    ++next_;
    return true;
}

Ended Reader::read(std::uint64_t most, bool lease) {
    ringcast::RingReader<Policy> ring(world_.ring, index_, next_);
    for (std::uint64_t n = 0; n < most; ++n) {
        const Ended ended = await_message(ring);
        // A writer that was killed may have been just about to publish one.
        if (ended == Ended::closed || ended == Ended::writer_died)
            Explorer::the().expect(next_ + (ended == Ended::writer_died) >= world_.published,
                                   "a message that was published was not read");
        if (ended != Ended::enough) return ended;
        if (!receive(ring, lease)) return Ended::evicted;
    }
    return Ended::enough;
}

void Reader::look_and_leave() {
    const ringcast::RingReader<Policy> ring(world_.ring, index_, next_);
    if (ring.readable()) {
        std::uint64_t bytes = 0;
        Policy::copy(&bytes, Ring::inline_area(ring.slot()), sizeof bytes);
    }
    leave();
}

void Reader::end_lease() {
    std::uint64_t bytes = 0;
    Policy::copy(&bytes, world_.block(leased_.block), sizeof bytes);
    Explorer::the().expect(bytes == content(leased_.position), "a block was overwritten while it was leased");
    ringcast::mark_done(world_.ring, index_, leased_.row, ringcast::mark_of(leased_.position));
    Policy::fence_seq_cst();  // [signal] for the mark
    auto& parked = world_.ring.control->writer_parked;
    if (parked.load(std::memory_order_relaxed) == ringcast::kAnySeat) ringcast::unpark<Policy>(parked);
}

void Reader::leave() {
    ringcast::leave_seat(world_.ring.seats[index_]);
    Policy::fence_seq_cst();  // [signal]: the seat does not gate any more
    ringcast::unpark<Policy>(world_.ring.control->writer_parked);
}

}  // namespace model
