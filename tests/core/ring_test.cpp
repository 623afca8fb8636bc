// The ring with threads as its ends over one mapping: one writer, readers that stay, join, leave and are evicted.
// Each message says which one it is, throughout: a torn, lost, repeated or early one does not pass `check_message`.
#include "ring.hpp"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <thread>
#include <vector>

#include "check.hpp"
#include "waiting.hpp"

using namespace ringcast;
using Native = platform::Native;

namespace {

constexpr std::size_t kWords = 24;
constexpr std::uint32_t kSlotBytes = 2 * kLinePair;
static_assert(sizeof(NativeSlot) + kWords * 8 <= kSlotBytes);

struct World {
    World(std::uint32_t n_seats, std::uint32_t depth, bool expected) {
        const std::size_t bytes =
            sizeof(NativeControl) + n_seats * sizeof(NativeSeat) + std::size_t{depth} * kSlotBytes;
        memory.reset(static_cast<std::byte*>(std::aligned_alloc(kLinePair, bytes)));
        std::memset(memory.get(), 0, bytes);
        ring.control = new (memory.get()) NativeControl{};
        ring.seats = reinterpret_cast<NativeSeat*>(memory.get() + sizeof(NativeControl));
        ring.slots = memory.get() + sizeof(NativeControl) + n_seats * sizeof(NativeSeat);
        ring.n_seats = n_seats;
        ring.depth = depth;
        ring.slot_bytes = kSlotBytes;
        for (std::uint32_t i = 0; i < n_seats; ++i) {
            auto* seat = new (&ring.seats[i]) NativeSeat{};
            if (expected) seat->state.store(seat_word(0, SeatState::expected));
        }
        for (std::uint32_t i = 0; i < depth; ++i) new (&ring.slot(i)) NativeSlot{};
    }
    struct Free {
        void operator()(std::byte* bytes) const { std::free(bytes); }
    };
    std::unique_ptr<std::byte, Free> memory;
    RingView<Native> ring;
};

struct Writer {
    explicit Writer(World& world, const Strategy& strategy = Strategy::park())
        : ring(world.ring), writer(world.ring), waiter(strategy, counters) {}

    bool has_room() { return writer.passed(writer.needed_for_slot()); }
    bool evict(std::uint32_t seat) { return writer.evict(seat, ring.seats[seat].state.load()); }
    void send() {
        while (!has_room()) {
            waiter.begin();
            const std::uint64_t needed = writer.needed_for_slot();
            const std::uint32_t laggard = writer.laggard();
            waiter.slice(ring.control->writer_parked, laggard + 1, kForever,
                         [&] { return writer.seat_passed(laggard, needed); });
        }
        std::uint64_t words[kWords];
        for (std::size_t i = 0; i < kWords; ++i) words[i] = writer.position() * 1'000'003 + i;
        Native::copy(RingView<Native>::inline_area(writer.slot()), words, sizeof words);
        writer.publish(Descriptor{sizeof words + writer.position() % 2, kInline, 0, Encoding::raw, 0, {}});
        if (writer.position() % 3 != 0) writer.announce();  // as batches do
    }
    void close() {
        ring.control->closed.store(1, std::memory_order_release);
        writer.announce();
    }

    RingView<Native> ring;
    RingWriter<Native> writer;
    WaitCounters<Native> counters{};
    Waiter<Native> waiter;
};

// An evicted reader copies while the writer overwrites, and then throws the copy away. A thread sanitizer must not
// look.
__attribute__((no_sanitize("thread"), noinline)) void copy_unwatched(std::uint64_t* to, const std::byte* from) {
    const auto* words = reinterpret_cast<const volatile std::uint64_t*>(from);
    for (std::size_t i = 0; i < kWords; ++i) {
        if (i == kWords / 2 && words[0] % 3 == 0) std::this_thread::yield();  // gives the writer time to tear it
        to[i] = words[i];
    }
}

void check_message(const std::uint64_t* words, std::uint64_t number) {
    for (std::size_t i = 0; i < kWords; ++i) CHECK(words[i] == number * 1'000'003 + i);
}

enum class Ended { closed, enough, evicted };

// Takes the seat, reads up to `most` messages, leaves.
Ended read(World& world, std::uint32_t index, std::uint64_t most, std::uint64_t& count, WaitCounters<Native>& counters,
           const Strategy& strategy = Strategy::park(), bool may_be_evicted = false) {
    const RingView<Native>& ring = world.ring;
    NativeSeat& seat = ring.seats[index];
    Claimed taken{};
    if (!take_seat(ring, seat, Start::promised, taken)) {
        leave_seat(ring, seat);  // evicted before it was even taken
        return Ended::evicted;
    }
    const std::uint64_t first = taken.first;
    RingReader<Native> reader(ring, index, first);
    Waiter<Native> waiter(strategy, counters);
    Ended ended = Ended::enough;
    for (std::uint64_t n = 0; n < most;) {
        if (!reader.readable()) {
            const bool closed = ring.control->closed.load(std::memory_order_acquire) == 1;
            if (closed && !reader.readable()) {
                ended = Ended::closed;
                break;
            }
            if (!reader.still_seated()) {
                ended = Ended::evicted;
                break;
            }
            waiter.begin();
            waiter.slice(seat.parked, 1, kForever, [&] {
                return reader.readable() || ring.control->closed.load(std::memory_order_acquire) == 1 ||
                       !reader.still_seated();
            });
            continue;
        }
        std::uint64_t words[kWords];
        const std::byte* bytes = RingView<Native>::inline_area(reader.slot());
        if (may_be_evicted) {
            copy_unwatched(words, bytes);
        } else {
            Native::copy(words, bytes, sizeof words);
            CHECK(reader.slot().descriptor.length == sizeof words + reader.cursor() % 2);
        }
        const std::uint64_t number = reader.cursor();
        reader.consume();
        if (!reader.settle()) {
            CHECK(may_be_evicted);
            ended = Ended::evicted;
            break;
        }
        check_message(words, number);
        CHECK(number == first + n);
        ++n;
        ++count;
    }
    leave_seat(ring, seat);
    return ended;
}

void run_steady(std::uint32_t n_readers, std::uint32_t depth, std::uint64_t messages, const Strategy& strategy) {
    World world(n_readers, depth, true);
    std::vector<std::uint64_t> counts(n_readers, 0);
    std::vector<WaitCounters<Native>> counters(n_readers);
    std::vector<std::thread> threads;
    for (std::uint32_t i = 0; i < n_readers; ++i)
        threads.emplace_back(
            [&, i] { CHECK(read(world, i, UINT64_MAX, counts[i], counters[i], strategy) == Ended::closed); });
    Writer writer(world, strategy);
    check::Rounds rounds(messages);
    while (rounds.next()) writer.send();
    writer.close();
    for (auto& thread : threads) thread.join();
    for (std::uint32_t i = 0; i < n_readers; ++i) {
        CHECK(counts[i] == rounds.done());
        CHECK(counters[i].rescued_wakes.load() <= check::kForgivenRescues);
    }
    CHECK(writer.counters.rescued_wakes.load() <= check::kForgivenRescues);
}

void run_joining(std::uint32_t depth) {
    constexpr std::uint32_t kReaders = 3;
    World world(kReaders, depth, false);
    std::vector<std::uint64_t> counts(kReaders, 0);
    std::vector<WaitCounters<Native>> counters(kReaders);
    std::vector<std::thread> threads;
    for (std::uint32_t i = 0; i < kReaders; ++i)
        threads.emplace_back([&, i] {
            std::mt19937 random(i);
            while (read(world, i, 1 + random() % 40, counts[i], counters[i]) == Ended::enough) {
            }
        });
    Writer writer(world);
    check::Rounds rounds(20'000ull * check::kScale);
    while (rounds.next()) {
        writer.send();
        if (rounds.done() % 16 == 1) std::this_thread::yield();
    }
    writer.close();
    for (auto& thread : threads) thread.join();
    for (std::uint32_t i = 0; i < kReaders; ++i) CHECK(counters[i].rescued_wakes.load() <= check::kForgivenRescues);
    CHECK(writer.counters.rescued_wakes.load() <= check::kForgivenRescues);
}

}  // namespace

TEST(every_reader_gets_every_message_once_whole_and_in_order) {
    for (const std::uint32_t n_readers : {1u, 2u, 4u})
        for (const std::uint32_t depth : {1u, 2u, 3u, 64u})
            run_steady(n_readers, depth, 2000ull * check::kScale, Strategy::park());
}

TEST(it_does_so_with_every_way_of_waiting) {
    run_steady(2, 4, 2000ull * check::kScale, Strategy::yield());
    run_steady(2, 4, 2000ull * check::kScale, Strategy::adaptive_default());
    run_steady(1, 4, 300, Strategy::spin());
}

TEST(readers_that_join_and_leave_get_a_gapless_piece_and_are_not_waited_for_afterwards) {
    for (const std::uint32_t depth : {1u, 2u, 8u}) run_joining(depth);
}

TEST(a_message_that_an_evicted_reader_accepts_was_never_torn) {
    constexpr std::uint32_t kReaders = 3;
    World world(kReaders, 2, false);
    std::vector<std::uint64_t> counts(kReaders, 0);
    std::vector<WaitCounters<Native>> counters(kReaders);
    std::atomic<std::uint64_t> evictions{0};
    std::vector<std::thread> threads;
    for (std::uint32_t i = 0; i < kReaders; ++i)
        threads.emplace_back([&, i] {
            for (;;) {
                const Ended ended = read(world, i, UINT64_MAX, counts[i], counters[i], Strategy::yield(), true);
                if (ended == Ended::closed) return;
                evictions.fetch_add(1);
            }
        });
    Writer writer(world, Strategy::yield());
    std::mt19937 random(9);
    check::Rounds rounds(20'000ull * check::kScale);
    while (rounds.next() || evictions.load() < 100) {
        if (random() % 8 == 0) writer.evict(static_cast<std::uint32_t>(random() % kReaders));
        writer.send();
    }
    writer.close();
    for (auto& thread : threads) thread.join();
}

TEST(an_expected_reader_holds_the_writer_back_until_it_has_come_or_is_given_up) {
    World world(2, 4, true);
    Writer writer(world);
    for (int n = 0; n < 4; ++n) {
        CHECK(writer.has_room());
        writer.send();
    }
    CHECK(!writer.has_room());
    CHECK(writer.evict(1));
    CHECK(!writer.evict(1));
    CHECK(world.ring.seats[1].state.load() == seat_word(0, SeatState::forgone));
    CHECK(!writer.has_room());
    std::uint64_t count = 0;
    WaitCounters<Native> counters{};
    CHECK(read(world, 0, 4, count, counters) == Ended::enough);
    CHECK(count == 4);
    CHECK(writer.has_room());
}

TEST(a_late_joiner_starts_at_the_head_and_its_seat_is_a_new_incarnation) {
    World world(1, 4, false);
    NativeSeat& seat = world.ring.seats[0];
    Writer writer(world);
    for (int n = 0; n < 3; ++n) writer.send();
    Claimed taken{};
    CHECK(take_seat(world.ring, seat, Start::promised, taken));
    CHECK(taken.first == 3);
    CHECK(seat.state.load() == seat_word(0, SeatState::active));
    leave_seat(world.ring, seat);
    leave_seat(world.ring, seat);
    CHECK(seat.state.load() == seat_word(1, SeatState::vacant));
    CHECK(world.ring.control->departures.load() == 1);
}

TEST(who_gets_the_lock_of_a_dead_reader_s_seat_goes_on_where_it_was_as_the_next_incarnation) {
    for (const bool failed : {false, true}) {
        World world(1, 4, false);
        NativeSeat& seat = world.ring.seats[0];
        Writer writer(world);
        for (int n = 0; n < 2; ++n) writer.send();
        Claimed taken{};
        CHECK(take_seat(world.ring, seat, Start::promised, taken));
        for (int n = 0; n < 4; ++n) writer.send();
        CHECK(!writer.has_room());
        if (failed) leave_seat(world.ring, seat, false);
        CHECK(seat_state(seat.state.load()) == (failed ? SeatState::failed : SeatState::active));
        CHECK(!writer.has_room());
        CHECK(take_seat(world.ring, seat, Start::promised, taken));
        CHECK(taken.first == 2 && taken.since == 2);
        CHECK(seat.state.load() == seat_word(1, SeatState::active));
        CHECK(!writer.has_room());
    }
}

TEST(who_does_not_ask_for_what_was_kept_begins_at_the_head_and_is_told_what_it_skipped) {
    for (const bool expected : {false, true}) {
        World world(1, 4, expected);
        NativeSeat& seat = world.ring.seats[0];
        Writer writer(world);
        Claimed taken{};
        if (!expected) CHECK(take_seat(world.ring, seat, Start::promised, taken));
        for (int n = 0; n < 4; ++n) writer.send();
        CHECK(!writer.has_room());
        CHECK(take_seat(world.ring, seat, Start::head, taken));
        CHECK(taken.since == 0 && taken.first == 4);
        CHECK(writer.has_room());
    }
}

TEST(after_an_eviction_and_after_its_death_was_told_a_rank_s_next_reader_begins_at_the_head) {
    World world(1, 4, false);
    NativeSeat& seat = world.ring.seats[0];
    Writer writer(world);
    Claimed taken{};
    CHECK(take_seat(world.ring, seat, Start::promised, taken));
    for (int n = 0; n < 3; ++n) writer.send();
    CHECK(writer.evict(0));
    CHECK(take_seat(world.ring, seat, Start::promised, taken));
    CHECK(taken.first == 3 && taken.before == SeatState::evicted);
    CHECK(seat.state.load() == seat_word(1, SeatState::active));
    writer.send();
    seat.state.store(seat_word(1, SeatState::lapsed));
    CHECK(gates(seat.state.load()));
    CHECK(take_seat(world.ring, seat, Start::promised, taken));
    CHECK(taken.first == 4 && taken.since == 3);
}

TEST(a_claimant_that_was_killed_before_it_knew_its_first_message_has_no_promise_to_pass_on) {
    World world(1, 4, false);
    NativeSeat& seat = world.ring.seats[0];
    Writer writer(world);
    Claimed taken{};
    CHECK(take_seat(world.ring, seat, Start::promised, taken));
    seat.joined_at.store(kJoining);
    for (int n = 0; n < 3; ++n) writer.send();
    CHECK(take_seat(world.ring, seat, Start::promised, taken));
    CHECK(taken.first == 3);
}

TEST(from_the_moment_a_reader_is_expected_everything_is_kept_for_it) {
    World world(1, 2, false);
    NativeSeat& seat = world.ring.seats[0];
    Writer writer(world);
    for (int n = 0; n < 5; ++n) writer.send();
    CHECK(expect_reader(world.ring, seat));
    CHECK(!expect_reader(world.ring, seat));
    for (int n = 0; n < 2; ++n) writer.send();
    CHECK(!writer.has_room());
    Claimed taken{};
    CHECK(take_seat(world.ring, seat, Start::promised, taken));
    CHECK(taken.first == 5);
}
