// A tap on a real segment: what it takes is kept until the other machine has it, whatever becomes of who takes it.
#include "tap.hpp"

#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "sender.hpp"

using namespace ringcast;

namespace {

constexpr std::uint64_t kLongest = 16'000;  // longer messages are not batched
constexpr std::size_t kBatch = 64 << 10;

std::shared_ptr<Segment> make(std::uint32_t n_local, std::uint32_t n_remote, std::uint32_t depth,
                              std::uint64_t budget = 4 << 20) {
    std::vector<std::uint32_t> ranks(n_local);
    for (std::uint32_t i = 0; i < n_local; ++i) ranks[i] = i;
    const std::string name = "ringcast_tt" + std::to_string(platform::process_id());
    return Segment::create(
        {name, "tap", "test",
         plan_geometry(n_local + n_remote, n_local, 200'000, depth, budget, 0, platform::page_bytes()), ranks});
}

std::shared_ptr<Segment> again(const std::shared_ptr<Segment>& segment) {
    return Segment::attach(segment->name(), Access::read, "test");
}

struct Link {
    explicit Link(const std::shared_ptr<Segment>& of)
        : segment(again(of)), claim(claim_tap(*segment)), tap(segment, Strategy::park(), claim) {}
    std::shared_ptr<Segment> segment;
    TapClaim claim;
    Tap tap;
};

template <class Condition>
void eventually(Condition&& condition) {
    const std::int64_t until = platform::monotonic_ns() + 60'000'000'000;
    while (!condition()) {
        CHECK(platform::monotonic_ns() < until);
        std::this_thread::yield();
    }
}

std::uint64_t size_of(std::uint64_t number) {
    std::mt19937_64 random(number);
    return 8 + random() % (random() % 3 == 0 ? 150'000 : 900);
}

std::byte filler(std::uint64_t number) { return std::byte(number % 251); }

void fill_room(Sender& sender, Sender::Room& room, std::uint64_t number) {
    std::memset(room.bytes, static_cast<int>(filler(number)), room.length);
    std::memcpy(room.bytes, &number, 8);
    sender.commit(room, Encoding::raw, false);
}

bool try_send(Sender& sender, std::uint64_t number, std::uint64_t bytes) {
    Sender::Room room;
    if (!sender.try_reserve(bytes, room)) return false;
    fill_room(sender, room, number);
    return true;
}

void send(Sender& sender, std::uint64_t number, std::uint64_t bytes) {
    while (!try_send(sender, number, bytes)) {
        sender.begin_wait();
        const bool room = sender.await_room(platform::monotonic_ns() + 10'000'000);
        sender.waiter().finish(room);
        if (!room) sender.check_room(true);
    }
}

void check_bytes(const std::byte* bytes, std::uint64_t length, std::uint64_t number) {
    CHECK(length == size_of(number));
    CHECK(std::memcmp(bytes, &number, 8) == 0);
    for (std::uint64_t i = 8; i < length; ++i) CHECK(bytes[i] == filler(number));
}

// Takes what is there, in batches where it is small, and checks it. False: the queue has ended.
bool take_some(Tap& tap, Batch& batch) {
    while (!tap.readable()) {
        if (tap.ending(false) != Ending::none) return false;
        tap.await(kForever);
    }
    std::uint64_t number = tap.position();
    batch.clear();
    tap.gather(batch, kLongest);
    if (!batch.empty()) {
        std::vector<std::byte> travelled;
        for (const auto piece : batch.pieces()) travelled.insert(travelled.end(), piece.begin(), piece.end());
        CHECK(travelled.size() <= kBatch);
        for (std::size_t at = 0; at < travelled.size(); ++number) {
            BatchHead head;
            std::memcpy(&head, travelled.data() + at, sizeof head);
            check_bytes(travelled.data() + at + sizeof head, head.length, number);
            at += sizeof head + head.length;
        }
        CHECK(tap.position() == number);
    } else {
        const auto message = tap.peek();
        CHECK(message.has_value());
        check_bytes(message->bytes, message->length, number);
        tap.take();
    }
    return true;
}

std::vector<std::vector<std::byte>> take_each(Tap& tap, std::uint64_t count) {
    std::vector<std::vector<std::byte>> taken;
    for (std::uint64_t n = 0; n < count; ++n) {
        const auto message = tap.peek();
        CHECK(message.has_value());
        taken.emplace_back(message->bytes, message->bytes + message->length);
        tap.take();
    }
    return taken;
}

std::uint64_t cursor_of(const Segment& segment, std::uint32_t seat) {
    return segment.ring().seats[seat].cursor.load(std::memory_order_relaxed);
}

SeatState state_of(const Segment& segment, std::uint32_t seat) {
    return seat_state(segment.ring().seats[seat].state.load(std::memory_order_relaxed));
}

void place(const Segment& segment, std::uint32_t index, std::uint32_t rank, std::uint32_t stream,
           PlacementState state = PlacementState::attached) {
    NativePlacement& placement = segment.ring().board[index];
    placement.rank.store(rank, std::memory_order_relaxed);
    placement.stream.store(stream, std::memory_order_relaxed);
    post_placement(segment.ring(), index, state);
}

bool forgo(const Segment& segment, std::uint32_t home) {
    CHECK(segment.locks().try_lock(seat_lock(home)));
    const bool forgone = forgo_home(segment.ring(), segment.ring().seats[home]);
    segment.locks().unlock(seat_lock(home));
    return forgone;
}

// A writer that waits for room in a thread of its own.
template <class Free>
void check_that_it_is_woken(Sender& sender, std::uint64_t number, std::uint64_t bytes, Free&& free) {
    CHECK(!try_send(sender, number, bytes));
    std::thread waiting([&] {
        Sender::Room room;
        while (!sender.try_reserve(bytes, room)) {
            sender.begin_wait();
            sender.waiter().finish(sender.await_room(kForever));
        }
        fill_room(sender, room, number);
    });
    const auto& word = sender.segment().ring().control->writer_parked.word;
    eventually([&] { return word.load(std::memory_order_relaxed) != 0; });
    free();
    waiting.join();
    CHECK(sender.counts().rescued_wakes <= check::kForgivenRescues);
}

}  // namespace

TEST(what_is_killed_at_any_point_has_read_whole_messages_and_the_writer_goes_on_without_it) {
    std::mt19937 random(11);
    for (int round = 0; round < 4 * check::kScale; ++round) {
        const auto segment = make(0, 1, 4, 600'000);
        Sender sender(segment, Strategy::park(), {.dead = ReaderPolicy::Dead::evict});
        CHECK(sender.readers().promise());
        const auto seed = random();
        const pid_t child = fork();
        if (child == 0) {
            std::mt19937 own(seed);
            Link link(segment);
            Batch batch(kBatch);
            while (take_some(link.tap, batch)) {
                const std::uint64_t taken = link.tap.position() - link.tap.acknowledged();
                // What the writer may be waiting for is not kept back for ever.
                if (!link.tap.readable())
                    link.tap.acknowledge(link.tap.position());
                else if (own() % 3 != 0)
                    link.tap.acknowledge(link.tap.acknowledged() + 1 + own() % taken);
            }
            _exit(0);
        }
        const std::uint64_t last = 20 + random() % 40;
        std::uint64_t number = 0;
        for (; number < last; ++number) send(sender, number, size_of(number));
        CHECK(kill(child, SIGKILL) == 0);
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        for (; number < last + 10; ++number) send(sender, number, size_of(number));
        CHECK(state_of(*segment, 0) == SeatState::evicted);
        // The next one begins with the next message.
        Link next(segment);
        CHECK(!next.claim.kept && next.claim.first == number);
        send(sender, number, size_of(number));
        Batch batch(kBatch);
        CHECK(take_some(next.tap, batch) && next.tap.position() == number + 1);
    }
}

TEST(messages_that_one_thread_takes_and_another_acknowledges_later_are_whole_and_in_order) {
    const std::uint64_t messages = 500ull * check::kScale;
    for (const std::uint32_t depth : {1u, 3u, 16u}) {
        const auto segment = make(0, 1, depth);
        Sender sender(segment, Strategy::park(), {});
        CHECK(sender.readers().promise());
        Link link(segment);
        CHECK(link.claim.kept && link.claim.first == 0);
        std::atomic<std::uint64_t> arrived{0};
        std::thread taking([&] {
            Batch batch(kBatch);
            while (take_some(link.tap, batch)) arrived.store(link.tap.position(), std::memory_order_release);
        });
        std::thread acknowledging([&] {
            std::mt19937_64 random(depth);
            while (link.tap.acknowledged() < messages) {
                const std::uint64_t before = link.tap.acknowledged();
                const std::uint64_t now = arrived.load(std::memory_order_acquire);
                if (now == before)
                    std::this_thread::yield();
                else
                    CHECK(link.tap.acknowledge(before + 1 + random() % (now - before)));
            }
        });
        for (std::uint64_t number = 0; number < messages; ++number) {
            send(sender, number, size_of(number));
            CHECK(number < cursor_of(*segment, 0) + depth);
        }
        acknowledging.join();
        sender.shut_down();
        taking.join();
        CHECK(link.tap.position() == messages);
        CHECK(link.tap.ending(false) == Ending::closed);
        CHECK(link.tap.counts().rescued_wakes <= check::kForgivenRescues);
        CHECK(sender.counts().rescued_wakes <= check::kForgivenRescues);
    }
}

TEST(who_goes_back_takes_the_same_bytes_again_and_only_those_that_were_not_acknowledged) {
    const auto segment = make(0, 1, 4);
    Sender sender(segment, Strategy::park(), {});
    CHECK(sender.readers().promise());
    Link link(segment);
    const std::uint64_t sizes[] = {100, 100'000, 50, 70'000, 30, 90'000, 20};
    for (std::uint64_t number = 0; number < 4; ++number) CHECK(try_send(sender, number, sizes[number]));
    const auto first = take_each(link.tap, 4);
    CHECK(!try_send(sender, 4, sizes[4]));
    CHECK(link.tap.acknowledge(2));
    CHECK(!link.tap.acknowledge(1));
    CHECK(!link.tap.acknowledge(5));
    CHECK(link.tap.acknowledged() == 2 && link.tap.position() == 4 && cursor_of(*segment, 0) == 2);
    for (std::uint64_t number = 4; number < 6; ++number) CHECK(try_send(sender, number, sizes[number]));
    CHECK(!try_send(sender, 6, sizes[6]));
    link.tap.go_back();
    CHECK(link.tap.position() == 2);
    const auto second = take_each(link.tap, 4);
    CHECK(second[0] == first[2] && second[1] == first[3]);
    for (std::uint64_t i = 0; i < 4; ++i) {
        const std::uint64_t number = i + 2;
        CHECK(second[i].size() == sizes[number] && std::memcmp(second[i].data(), &number, 8) == 0);
        CHECK(second[i].back() == filler(number));
    }
    CHECK(!link.tap.peek().has_value());
}

TEST(the_writer_waits_for_what_is_not_acknowledged_and_is_woken_when_it_is) {
    const auto segment = make(0, 1, 2);
    Sender sender(segment, Strategy::park(), {});
    CHECK(sender.readers().promise());
    Link link(segment);
    for (std::uint64_t number = 0; number < 2; ++number) CHECK(try_send(sender, number, 64));
    take_each(link.tap, 2);
    check_that_it_is_woken(sender, 2, 64, [&] { link.tap.acknowledge(1); });
    // And for the memory of a large one.
    CHECK(link.tap.acknowledge(2));
    take_each(link.tap, 1);
    CHECK(link.tap.acknowledge(3));
    const std::uint64_t large = segment->geometry().data_budget * 2 / 3;
    CHECK(try_send(sender, 3, large));
    take_each(link.tap, 1);
    check_that_it_is_woken(sender, 4, large, [&] { link.tap.acknowledge(4); });
    CHECK(take_each(link.tap, 1)[0].size() == large);
}

TEST(a_link_takes_first_what_is_kept_for_other_machines_then_what_is_free_and_never_what_is_lost) {
    const auto segment = make(1, 2, 4);
    Sender sender(segment, Strategy::park(), {});
    CHECK(sender.readers().promise());
    CHECK(state_of(*segment, 0) == SeatState::expected && state_of(*segment, 2) == SeatState::expected);
    CHECK(try_send(sender, 0, 64));
    std::vector<std::unique_ptr<Link>> links;
    for (std::uint32_t seat = 1; seat < segment->ring().n_seats; ++seat) {
        links.push_back(std::make_unique<Link>(segment));
        CHECK(links.back()->claim.seat == seat);
        CHECK(links.back()->claim.kept == (seat <= 2));
        CHECK(links.back()->claim.first == (seat <= 2 ? 0 : 1));
        CHECK(is_stream(segment->ring(), seat));
    }
    CHECK_THROWS(Link(segment), rank_taken);  // the first seat is a local reader's
    links[1]->tap.fail();
    links[1]->tap.shut_down();
    CHECK(state_of(*segment, 2) == SeatState::failed);
    CHECK_THROWS(Link(segment), rank_taken);
    links[3]->tap.shut_down();
    CHECK(Link(segment).claim.seat == 4);
}

TEST(a_seat_that_nobody_will_take_is_not_waited_for_any_more) {
    const auto segment = make(0, 2, 2);
    Sender sender(segment, Strategy::park(), {});
    CHECK(sender.readers().promise());
    Link link(segment);
    for (std::uint64_t number = 0; number < 2; ++number) CHECK(try_send(sender, number, 64));
    take_each(link.tap, 2);
    CHECK(link.tap.acknowledge(2));
    check_that_it_is_woken(sender, 2, 64, [&] { CHECK(forgo(*link.segment, 1)); });
    CHECK(segment->ring().seats[1].state.load() == seat_word(1, SeatState::vacant));
    CHECK(!forgo(*link.segment, 1));  // it is free, and who takes it now begins with the next message
    CHECK(Link(segment).claim.first == 3);
}

TEST(what_the_writer_wishes_wakes_the_link_that_waits) {
    const auto segment = make(0, 1, 2);
    Sender sender(segment, Strategy::park(), {});
    CHECK(sender.readers().promise());
    Link link(segment);
    place(*link.segment, 0, 7, link.claim.seat);
    CHECK(all_placed(segment->ring()));
    std::thread waiting([&] { CHECK(link.tap.await(kForever)); });
    const auto& word = segment->ring().seats[0].parked.word;
    eventually([&] { return word.load(std::memory_order_relaxed) != 0; });
    CHECK(sender.readers().evict(7));
    waiting.join();
    CHECK(state_of(*segment, 0) == SeatState::active);
    CHECK(link.tap.counts().rescued_wakes <= check::kForgivenRescues);
    CHECK(!link.tap.await(platform::monotonic_ns()));  // it is told once
    CHECK(sender.readers().evict(7));
    CHECK(link.tap.await(platform::monotonic_ns()));
}

TEST(a_link_that_says_it_is_lost_is_waited_for_until_its_readers_are_passed_over) {
    const auto segment = make(0, 1, 2);
    Sender sender(segment, Strategy::park(), {});
    CHECK(sender.readers().promise());
    Link link(segment);
    place(*link.segment, 0, 7, 0);
    for (std::uint64_t number = 0; number < 2; ++number) CHECK(try_send(sender, number, 64));
    take_each(link.tap, 2);
    place(*link.segment, 0, 7, 0, PlacementState::lost);
    link.tap.fail();
    link.tap.shut_down();
    CHECK(!try_send(sender, 2, 64));
    CHECK_THROWS(sender.check_room(false), reader_died);
    CHECK(sender.readers().evict(7));
    CHECK(try_send(sender, 2, 64));
}

TEST(a_seat_that_is_somebody_else_s_by_now_is_not_evicted_with_a_lost_link) {
    const auto segment = make(0, 2, 2);
    Sender sender(segment, Strategy::park(), {});
    CHECK(sender.readers().promise());
    Link link(segment);
    place(*link.segment, 0, 7, 0, PlacementState::lost);  // through the link that had this seat before
    place(*link.segment, 1, 8, 0);
    CHECK(!sender.readers().evict(7));
    CHECK(state_of(*segment, 0) == SeatState::active);
    CHECK(sender.readers().evict(8));  // by its link
    CHECK(state_of(*segment, 0) == SeatState::active);
}

TEST(a_wait_sleeps_when_the_patience_with_another_machine_is_over) {
    const auto segment = make(0, 1, 2);
    Sender sender(segment, Strategy::park(), {.slow = ReaderPolicy::Slow::evict});
    CHECK(sender.readers().promise());
    Link link(segment);
    place(*link.segment, 0, 7, 0);
    for (std::uint64_t number = 0; number < 2; ++number) CHECK(try_send(sender, number, 64));
    CHECK(!try_send(sender, 2, 64));
    CHECK(sender.patience_over());
    CHECK(!sender.check_room(true));
    const std::int64_t until = platform::monotonic_ns() + 10'000'000;
    sender.begin_wait();
    CHECK(!sender.await_room(until));
    sender.waiter().finish(false);
    CHECK(platform::monotonic_ns() >= until);
}

TEST(who_never_came_from_elsewhere_is_given_up_and_what_was_kept_is_counted_also_while_a_link_takes_the_seat) {
    const auto segment = make(0, 1, 2);
    Sender sender(segment, Strategy::park(), {.slow = ReaderPolicy::Slow::evict, .patience_ns = 1});
    CHECK(sender.readers().promise());
    for (std::uint64_t number = 0; number < 2; ++number) CHECK(try_send(sender, number, 64));
    CHECK(!try_send(sender, 2, 64));
    segment->ring().seats[0].rank.store(kStream, std::memory_order_relaxed);  // it has come so far
    const auto word = segment->ring().seats[0].state.load();
    const auto evicted = sender.readers().evict_seat(0, word, Eviction::Cause::slow);
    CHECK(evicted.has_value() && evicted->cause == Eviction::Cause::absent && evicted->rank == kNobody);
    CHECK(segment->ring().seats[0].missing_since.load() == 1);
    CHECK(try_send(sender, 2, 64));
}

TEST(a_tap_that_has_left_touches_nothing_of_who_has_its_seat_now) {
    const auto segment = make(0, 1, 4);
    Sender sender(segment, Strategy::park(), {});
    CHECK(sender.readers().promise());
    Link link(segment);
    for (std::uint64_t number = 0; number < 3; ++number) CHECK(try_send(sender, number, number == 1 ? 100'000 : 64));
    take_each(link.tap, 2);
    link.tap.shut_down();
    Link next(segment);
    CHECK(next.claim.seat == 0 && next.claim.first == 3);
    CHECK(link.tap.acknowledge(2));
    CHECK(cursor_of(*segment, 0) == 3);
    CHECK(try_send(sender, 3, 64));
    Batch batch(kBatch);
    link.tap.gather(batch, kLongest);
    CHECK(batch.empty());
    CHECK(!link.tap.peek().has_value());
    CHECK(link.tap.await(kForever));
    take_each(next.tap, 1);
}
