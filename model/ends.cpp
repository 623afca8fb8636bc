#include "ends.hpp"

#include <algorithm>

namespace model {

using ringcast::kInline;

namespace {

std::string word_text(std::uint64_t word) {
    static constexpr std::array<const char*, 8> kNames{"VACANT", "EXPECTED", "ACTIVE",  "EVICTED",
                                                       "FAILED", "LAPSED",   "FORGONE", "?"};
    return kNames[word & 7] + ("(" + std::to_string(ringcast::seat_incarnation(word))) + ")";
}

}  // namespace

World::World(const Shape& shape)
    : blocks(shape.blocks),
      keeper(shape.keeper),
      attached(shape.state == SeatState::active),
      expected(shape.state == SeatState::expected) {
    const auto rounded = [](std::size_t bytes) {
        return (bytes + ringcast::kLinePair - 1) / ringcast::kLinePair * ringcast::kLinePair;
    };
    const std::size_t slot_bytes = rounded(sizeof(ringcast::SlotHeader<Policy>) + sizeof(std::uint64_t));
    const std::size_t column_bytes = rounded(std::max(shape.blocks, 1u) * sizeof(Policy::atomic<std::uint64_t>));
    const std::size_t seats_at = rounded(sizeof(ringcast::Control<Policy>));
    const std::size_t board_at = seats_at + shape.seats * sizeof(Seat);
    const std::size_t slots_at = board_at + shape.remote * sizeof(Placement);
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
    ring.board = reinterpret_cast<Placement*>(base + board_at);
    ring.n_seats = shape.seats;
    ring.n_local = shape.seats - shape.remote;
    ring.n_remote = shape.remote;
    ring.depth = shape.depth;
    ring.slot_bytes = static_cast<std::uint32_t>(slot_bytes);
    ring.marks = base + marks_at;
    ring.mark_column_bytes = static_cast<std::uint32_t>(column_bytes);

    Explorer& explorer = Explorer::the();
    explorer.forget_locations();
    explorer.name(&ring.control->head, "head");
    explorer.name(&ring.control->writer_parked.word, "writer's parked word");
    explorer.name(&ring.control->closed, "closed");
    explorer.name(&ring.control->departures, "departures");
    for (std::uint32_t i = 0; i < shape.seats; ++i) {
        Seat& seat = *new (&ring.seats[i]) Seat{};
        seat.state.store(ringcast::seat_word(0, shape.state), std::memory_order_relaxed);
        seat.rank.store(i, std::memory_order_relaxed);
        const std::string of = "seat " + std::to_string(i) + "'s ";
        explorer.name(&seat.state, of + "state");
        explorer.name(&seat.joined_at, of + "join position");
        explorer.name(&seat.cursor, of + "cursor");
        explorer.name(&seat.parked.word, of + "parked word");
        explorer.name(&seat.touching, of + "touched message");
        for (std::uint32_t row = 0; row < shape.blocks; ++row) {
            auto& mark = ring.mark(i, row);
            new (&mark) Policy::atomic<std::uint64_t>{};
            explorer.name(&mark, of + "mark of row " + std::to_string(row));
        }
    }
    for (std::uint32_t i = 0; i < shape.remote; ++i) {
        Placement& placement = *new (&ring.board[i]) Placement{};
        const std::string of = "placement " + std::to_string(i) + "'s ";
        explorer.name(&placement.state, of + "fate");
        explorer.name(&placement.pid, of + "process");
        explorer.name(&placement.stream, of + "stream");
        explorer.name(&placement.evict, of + "wishes");
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
    read = {};
    kept.fill(attached || expected);
    taps = 0;
    wire = {};
    arena = {.shared = keeper};
    while (arena.n_free < blocks) arena.free[arena.n_free] = arena.n_free, ++arena.n_free;
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

void Writer::close() { ringcast::end_queue(world_.ring, ring_); }

bool Writer::evict(std::uint32_t seat, std::uint64_t word) {
    const bool held = ringcast::is_held(word);
    world_.kept[seat] = false;
    const bool evicted = ring_.evict(seat, word);
    // From here on the writer may overwrite what the holder is copying.
    if (evicted && held && (world_.taps >> world_.holder[seat] & 1) == 0) Explorer::the().excuse(world_.holder[seat]);
    return evicted;
}

void Writer::await_slot() {
    while (!ring_.passed(ring_.needed_for_slot())) await_slot_once();
}

void Writer::await_slot_once() {
    const std::uint64_t needed = ring_.needed_for_slot();
    if (ring_.passed(needed)) return;
    const std::uint32_t laggard = ring_.laggard();
    if (sleep(world_.ring.control->writer_parked, laggard + 1, [&] { return ring_.seat_passed(laggard, needed); }) &&
        !drop_dead(laggard))
        Explorer::the().expect(Explorer::the().any_killed() || !ring_.passed(needed),
                               "lost wake-up: there is room, and nobody has woken the writer");
}

void Writer::prepare_and_confirm() {
    const std::uint64_t bytes = content(0);
    Policy::copy(world_.block(0), &bytes, sizeof bytes);
    ringcast::confirm_ready(world_.ring, ring_);
}

// As ReaderWatch::drop_gone.
bool Writer::drop_dead(std::uint32_t seat) {
    Seat& s = world_.ring.seats[seat];
    const std::uint64_t word = s.state.load(std::memory_order_acquire);
    const SeatState state = ringcast::seat_state(word);
    if (state == SeatState::active &&
        (Explorer::the().is_locked(seat, Site::current()) || s.state.load(std::memory_order_acquire) != word))
        return false;
    if (!ringcast::is_held(word)) return false;
    if (dead == Dead::evict) return evict(seat, word);
    if (dead == Dead::tell && state != SeatState::lapsed) {
        world_.kept[seat] = false;
        ring_.lapse(seat, word);
    }
    return true;
}

void Writer::await_readers() {
    const std::array<std::uint32_t, 1> ranks{0};
    const auto all = [&] { return ringcast::all_have_readers(world_.ring, ranks); };
    while (!all()) sleep(world_.ring.control->writer_parked, ringcast::kAnySeat, all);
}

void Writer::expect(World& world, std::uint32_t seat) {
    Explorer::the().lock(seat, Site::current());
    if (ringcast::expect_reader(world.ring, world.ring.seats[seat])) {
        world.kept[seat] = true;
        world.read[seat] = world.ring.seats[seat].cursor.load(std::memory_order_relaxed);
        Explorer::the().expect(world.read[seat] <= world.published, "a reader is expected behind what was sent");
    }
    Explorer::the().unlock(seat, Site::current());
}

void Writer::look_for_departures() {
    if (ringcast::readers_that_left(world_.ring) == 0) return;
    Explorer::the().expect(
        world_.ring.seats[0].state.load(std::memory_order_relaxed) != ringcast::seat_word(0, SeatState::active),
        "a reader that is counted as gone is seen in its seat");
}

void Writer::look_for_news() {
    if (ringcast::readers_that_left(world_.ring) == 0) return;
    Explorer::the().expect(ringcast::placement_state(world_.ring.board[0]) != ringcast::PlacementState::open,
                           "there is news of a reader elsewhere, and it is not seen");
}

// As ReaderWatch::evict_seat, for an absent reader.
void Writer::give_up_absent(std::uint32_t seat) {
    const std::uint64_t word = world_.ring.seats[seat].state.load(std::memory_order_acquire);
    if (ringcast::seat_state(word) == SeatState::expected) evict(seat, word);
}

void Writer::await_placed() {
    const auto all = [&] { return ringcast::all_placed(world_.ring); };
    while (!all()) sleep(world_.ring.control->writer_parked, ringcast::kAnySeat, all);
    ringcast::visit_stream(world_.ring, 0, [](std::uint32_t, const Placement& placement) {
        Explorer::the().expect(placement.pid.load(std::memory_order_relaxed) == World::kPid,
                               "a reader elsewhere is seen, and not who it is");
    });
}

// As Arena::is_held, reclaim, and Sender::place_block.
bool Writer::is_held(const Block& block, bool ask_kernel) {
    const auto holds = [&](std::uint32_t column) {
        return column < world_.ring.n_seats && may_read(world_.ring, column, block.row, block.position) &&
               (!ask_kernel || Explorer::the().is_locked(column, Site::current()));
    };
    return ringcast::first_holder(world_.ring, holds) <= world_.ring.n_seats;
}

// Only where another thread may want it: taking a lock is a step.
class Writer::ArenaLock {
public:
    explicit ArenaLock(const World& world, Site site = Site::current()) : shared_(world.arena.shared), site_(site) {
        if (shared_) Explorer::the().lock(World::kArenaLock, site_);
    }
    ~ArenaLock() {
        if (shared_) Explorer::the().unlock(World::kArenaLock, site_);
    }
    ArenaLock(const ArenaLock&) = delete;
    ArenaLock& operator=(const ArenaLock&) = delete;

private:
    bool shared_;
    Site site_;
};

void Writer::reclaim(std::uint64_t gate, bool ask_kernel) {
    World::Arena& a = arena_;
    while (a.n_unread > 0 && a.unread[0].position < gate) {
        a.held[a.n_held++] = a.unread[0];
        std::copy(a.unread.begin() + 1, a.unread.begin() + a.n_unread, a.unread.begin());
        --a.n_unread;
    }
    for (std::uint32_t i = 0; i < a.n_held;) {
        if (is_held(a.held[i], ask_kernel)) {
            ++i;
            continue;
        }
        a.free[a.n_free++] = a.held[i].row;
        a.held[i] = a.held[--a.n_held];
    }
}

void Writer::keep_arena(World& world) {
    Writer self(world);
    const ArenaLock lock(world);
    self.reclaim(ringcast::gate_of(world.ring), true);
}

bool Writer::take_block(std::uint32_t& row) {
    for (const bool ask_kernel : {false, true}) {
        if (!ask_kernel) ring_.refresh_gate();
        const ArenaLock lock(world_);
        reclaim(ring_.gate(), ask_kernel);
        if (arena_.n_free == 0) continue;
        row = arena_.free[--arena_.n_free];
        return true;
    }
    return false;
}

bool Writer::may_have_block() {
    const ArenaLock lock(world_);
    if (arena_.n_free > 0) return true;  // the other thread has taken some back
    if (arena_.n_unread > 0 && ring_.seat_passed(ring_.laggard(), arena_.unread[0].position + 1)) return true;
    for (std::uint32_t i = 0; i < arena_.n_held; ++i)
        if (!is_held(arena_.held[i], false)) return true;
    return false;
}

void Writer::send_block() {
    await_slot();
    std::uint32_t row = 0;
    while (!take_block(row))
        if (sleep(world_.ring.control->writer_parked, ringcast::kAnySeat, [&] { return may_have_block(); }) &&
            arena_.n_unread > 0)
            drop_dead(ring_.laggard());
    const std::uint64_t bytes = content(ring_.position());
    Policy::copy(world_.block(row), &bytes, sizeof bytes);
    {
        const ArenaLock lock(world_);
        arena_.unread[arena_.n_unread++] = Block{ring_.position(), row};
    }
    publish(Descriptor{content(ring_.position()), row * World::kBlockBytes, row, {}, 0, {}});
    ring_.announce();
}

// ---- The reader

bool Reader::attach(Start start) {
    if (world_.attached && world_.holder[index_] == Explorer::the().self()) return true;
    Explorer::the().lock(index_, Site::current());
    world_.holder[index_] = Explorer::the().self();
    ringcast::Claimed taken{};
    if (!ringcast::take_seat(world_.ring, world_.ring.seats[index_], start, taken)) {
        unlock();
        return false;
    }
    first_ = next_ = taken.first;
    if (start == Start::promised && world_.kept[index_])
        Explorer::the().expect(first_ == world_.read[index_],
                               "a rank's next reader does not go on where the last one was");
    world_.kept[index_] = true;
    world_.read[index_] = first_;
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
        // As Receiver::current and throw_corrupt.
        if (descriptor.row >= world_.blocks || world_.index_of(descriptor.block) >= world_.blocks) {
            explorer.expect(!ring.intact(), "a descriptor that is torn was taken for a stranger's");
            return false;
        }
        if (!ring.touch_block(descriptor.row)) return false;
        explorer.expect(descriptor.length == content(position), "a descriptor that is not the message's was believed");
        leased_ = {position, world_.index_of(descriptor.block), descriptor.row};
        Policy::copy(&bytes, world_.block(leased_.block), sizeof bytes);
        if (!lease) ringcast::mark_done(world_.ring, index_, leased_.row, ringcast::mark_of(position));
        ring.consume();
    }
    world_.read[index_] = position + 1;
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

void Reader::await_ready() {
    const auto ready = [&] { return world_.ring.control->all_ready.load(std::memory_order_acquire) == 1; };
    while (!ready()) sleep(world_.ring.seats[index_].parked, 1, ready);
    std::uint64_t bytes = 0;
    Policy::copy(&bytes, world_.block(0), sizeof bytes);
}

void Reader::await_rouse() {
    const auto roused = [&] { return world_.roused.load(std::memory_order_relaxed); };
    while (!roused()) sleep(world_.ring.seats[index_].parked, 1, roused);
}

void Reader::end_lease() {
    std::uint64_t bytes = 0;
    Policy::copy(&bytes, world_.block(leased_.block), sizeof bytes);
    Explorer::the().expect(bytes == content(leased_.position), "a block was overwritten while it was leased");
    ringcast::mark_done(world_.ring, index_, leased_.row, ringcast::mark_of(leased_.position));
    Policy::fence_seq_cst();  // [signal] for the mark
    auto& parked = world_.ring.control->writer_parked;
    if (parked.word.load(std::memory_order_relaxed) == ringcast::kAnySeat) ringcast::unpark<Policy>(parked);
}

// As SeatEstate does.
void Reader::make_image(std::uint32_t image) {
    Explorer::the().lock(image, Site::current());
    Explorer::the().expect(ringcast::make_image(world_.ring, index_, image, leased_.position + 1, world_.blocks),
                           "a seat that is free was changed by somebody");
    inherited_ = leased_;
}

void Reader::look_as_child(std::uint32_t image) {
    std::uint64_t bytes = 0;
    Policy::copy(&bytes, world_.block(inherited_.block), sizeof bytes);
    Explorer::the().expect(bytes == content(inherited_.position), "a block was overwritten while a child viewed it");
    Explorer::the().unlock(image, Site::current());
}

void Reader::leave(bool in_order) {
    if (in_order) world_.kept[index_] = false;
    ringcast::leave_seat(world_.ring, world_.ring.seats[index_], in_order);
}

}  // namespace model
