// Sender and Receiver over a real segment: small and large messages, a data part that wraps, and a stop from outside.
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "check.hpp"
#include "receiver.hpp"
#include "sender.hpp"

using namespace ringcast;

namespace {

std::shared_ptr<Segment> make(std::uint32_t n_reader, std::uint64_t chunk, std::uint32_t chunks, std::uint64_t budget) {
    std::vector<std::uint32_t> ranks(n_reader);
    for (std::uint32_t i = 0; i < n_reader; ++i) ranks[i] = i;
    char name[32];
    std::snprintf(name, sizeof name, "ringcast_ct%u", platform::process_id());
    return Segment::create(
        {name, "", "test", plan_geometry(n_reader, n_reader, chunk, chunks, budget, 0, platform::page_bytes()), ranks});
}

std::uint64_t size_of(std::uint64_t number, std::uint64_t largest) {
    std::mt19937_64 random(number);
    return 8 + random() % (random() % 3 == 0 ? largest - 8 : 1000);
}

void send(Sender& sender, std::uint64_t number, std::uint64_t bytes) {
    Sender::Room room;
    while (!sender.try_reserve(bytes, room)) {
        sender.begin_wait();
        if (!sender.await_room_briefly()) sender.await_room(kForever);
        sender.waiter().finish(true);
    }
    CHECK(room.length == bytes);
    std::memset(room.bytes, static_cast<int>(number % 251), bytes);
    std::memcpy(room.bytes, &number, 8);
    sender.commit(room, Encoding::raw, false, number % 5 == 0);
}

bool receive(Receiver& receiver, std::vector<std::byte>& into) {
    while (!receiver.readable()) {
        try {
            receiver.check_end(false);
        } catch (const Error& error) {
            CHECK(error.code() == ErrorCode::closed);
            return false;
        }
        receiver.begin_wait();
        if (!receiver.await_message_briefly()) receiver.await_message(kForever);
        receiver.waiter().finish(true);
    }
    const Receiver::Message message = receiver.current();
    into.assign(message.bytes, message.bytes + message.length);
    receiver.consume(message);
    receiver.settle();
    return true;
}

// Receives like `receive`, but keeps blocks leased, some for long, and drops them in another thread in any order.
void keep_leases(const std::shared_ptr<Segment>& segment, std::uint32_t rank, std::uint64_t messages,
                 std::uint64_t largest) {
    const auto attached = Segment::attach(segment->name(), Access::read, "test");
    struct Kept {
        std::uint64_t number;
        const std::byte* bytes;
        std::uint64_t length;
        std::unique_ptr<Lease> lease;
    };
    std::mutex mutex;
    std::vector<Kept> kept;
    std::atomic<bool> done{false};
    std::thread dropper([&] {
        std::mt19937_64 random(rank);
        while (true) {
            const bool last = done.load();
            std::optional<Kept> dropped;
            {
                const std::lock_guard guard(mutex);
                if (kept.empty() && last) return;
                if (kept.size() > (last ? 0 : 3)) {
                    std::swap(kept[random() % kept.size()], kept.back());
                    dropped.emplace(std::move(kept.back()));
                    kept.pop_back();
                }
            }
            if (!dropped) {
                std::this_thread::yield();
                continue;
            }
            CHECK(dropped->length == size_of(dropped->number, largest));
            CHECK(std::memcmp(dropped->bytes, &dropped->number, 8) == 0);
            for (std::uint64_t i = 8; i < dropped->length; ++i)
                CHECK(dropped->bytes[i] == std::byte(dropped->number % 251));
        }
    });
    {
        Receiver receiver(attached, Strategy::adaptive_default(), claim_seat(*attached, rank));
        for (std::uint64_t number = 0; number < messages; ++number) {
            while (!receiver.readable()) {
                receiver.begin_wait();
                if (!receiver.await_message_briefly()) receiver.await_message(kForever);
                receiver.waiter().finish(true);
            }
            const Receiver::Message message = receiver.current();
            if (!message.in_block()) {
                receiver.consume(message);
                receiver.settle();
                continue;
            }
            // Some have no pages of their own, and are read where the writer put them.
            const std::byte* view = receiver.view(message, true);
            Lease lease = receiver.consume_leased(
                message, view != nullptr ? Lease::Through::private_readonly : Lease::Through::shared);
            receiver.settle();
            const std::lock_guard guard(mutex);
            kept.push_back({number, view != nullptr ? view : message.bytes, message.length,
                            std::make_unique<Lease>(std::move(lease))});
        }
        CHECK(receiver.counts().rescued_wakes <= check::kForgivenRescues);
    }
    done.store(true);  // the last leases outlive the end
    dropper.join();
}

void run(std::uint32_t n_reader, std::uint64_t largest, std::uint32_t depth, std::uint64_t budget) {
    const std::uint64_t messages = 1500ull * check::kScale;
    const auto segment = make(n_reader, largest, depth, budget);
    std::vector<std::thread> threads;
    for (std::uint32_t rank = 0; rank < n_reader; ++rank)
        threads.emplace_back([&, rank] {
            const auto attached = Segment::attach(segment->name(), Access::read, "test");
            Receiver receiver(attached, Strategy::adaptive_default(), claim_seat(*attached, rank));
            std::vector<std::byte> bytes;
            std::uint64_t number = 0;
            for (; receive(receiver, bytes); ++number) {
                CHECK(bytes.size() == size_of(number, largest));
                CHECK(std::memcmp(bytes.data(), &number, 8) == 0);
                for (std::size_t i = 8; i < bytes.size(); ++i) CHECK(bytes[i] == std::byte(number % 251));
            }
            CHECK(number == messages);
            CHECK(receiver.counts().rescued_wakes <= check::kForgivenRescues);
        });
    Sender sender(segment, Strategy::adaptive_default(), {});
    for (std::uint64_t number = 0; number < messages; ++number) send(sender, number, size_of(number, largest));
    CHECK(segment->committed_bytes() <= segment->geometry().control_bytes + segment->geometry().data_budget);
    sender.shut_down();
    for (auto& thread : threads) thread.join();
    CHECK(sender.counts().rescued_wakes <= check::kForgivenRescues);
}

}  // namespace

TEST(leased_blocks_stay_as_they_are_until_they_are_dropped_in_whatever_order) {
    for (const std::uint64_t budget : {std::uint64_t{0}, std::uint64_t{600'000}}) {
        const std::uint64_t messages = 1500ull * check::kScale;
        const auto segment = make(2, 50'000, 16, budget);
        std::vector<std::thread> threads;
        for (std::uint32_t rank = 0; rank < 2; ++rank)
            threads.emplace_back([&, rank] { keep_leases(segment, rank, messages, 50'000); });
        Sender sender(segment, Strategy::adaptive_default(), {});
        for (std::uint64_t number = 0; number < messages; ++number) send(sender, number, size_of(number, 50'000));
        for (auto& thread : threads) thread.join();
        sender.reclaim();
        CHECK(segment->ring().control->blocks_in_use.load() == 0);
        CHECK(segment->committed_bytes() <= segment->geometry().control_bytes + segment->geometry().data_budget);
        CHECK(sender.counts().rescued_wakes <= check::kForgivenRescues);
    }
}

TEST(mixed_sizes_arrive_whole_through_a_data_part_that_has_room) { run(2, 50'000, 16, 0); }

TEST(mixed_sizes_arrive_whole_through_a_data_part_that_wraps) { run(2, 50'000, 64, 280'000); }

TEST(mixed_sizes_arrive_whole_through_a_data_part_of_one_message) { run(1, 50'000, 8, 160'000); }

TEST(a_closed_queue_has_not_ended_for_a_reader_that_has_not_read_everything) {
    const auto segment = make(1, 100, 4, 0);
    const auto attached = Segment::attach(segment->name(), Access::read, "test");
    Receiver receiver(attached, Strategy::park(), claim_seat(*attached, 0));
    {
        Sender sender(segment, Strategy::park(), {});
        for (std::uint64_t n = 0; n < 3; ++n) send(sender, n, 50);
    }
    std::vector<std::byte> bytes;
    for (std::uint64_t n = 0; n < 3; ++n) {
        receiver.check_end(true);
        CHECK(receiver.backlog() == 3 - n);
        CHECK(receive(receiver, bytes));
    }
    CHECK_THROWS((receiver.check_end(false), 0), closed);
    CHECK(!receive(receiver, bytes));
}

TEST(shutting_down_from_another_thread_ends_a_wait) {
    for (int n = 0; n < 20; ++n) {
        const auto segment = make(1, 100, 2, 0);
        const auto attached = Segment::attach(segment->name(), Access::read, "test");
        Sender sender(segment, Strategy::park(), {});
        Receiver receiver(attached, Strategy::park(), claim_seat(*attached, 0));
        std::thread waiting([&] {
            while (!receiver.try_take_turn(platform::thread_id())) std::this_thread::yield();
            receiver.begin_wait();
            while (!receiver.await_message(kForever)) {
            }
            CHECK(receiver.stopped());
            receiver.give_turn_back();
        });
        if (n % 2 == 0)
            while (receiver.counts().parks == 0) std::this_thread::yield();
        receiver.shut_down();
        waiting.join();
        CHECK(receiver.counts().rescued_wakes <= check::kForgivenRescues);
    }
}

TEST(a_segment_s_name_goes_with_its_creator_and_a_living_one_s_is_refused) {
    std::string name;
    {
        const auto segment = make(1, 100, 2, 0);
        name = segment->name();
        CHECK_THROWS(make(1, 100, 2, 0), segment_exists);
        CHECK(Segment::attach(name, Access::observe, "test")->creator_alive());
    }
    CHECK_THROWS(Segment::attach(name, Access::observe, "test"), segment_not_found);
}

TEST(a_rank_is_claimed_once_and_again_after_its_reader_left) {
    const auto segment = make(2, 100, 2, 0);
    const auto first = Segment::attach(segment->name(), Access::read, "test");
    const auto second = Segment::attach(segment->name(), Access::read, "test");
    {
        Receiver receiver(first, Strategy::park(), claim_seat(*first, 1));
        CHECK_THROWS(claim_seat(*second, 1), rank_taken);
        CHECK_THROWS(claim_seat(*second, 7), rank_unknown);
        CHECK(claim_seat(*second, std::nullopt).rank == 0);
    }
    CHECK(claim_seat(*second, 1).rank == 1);
}

namespace {

// An open chunk over a new message's room, as its owner has it.
struct OpenChunk {
    OpenChunk(Sender& of, std::uint64_t bytes) : sender(of) {
        CHECK(sender.try_take_turn(platform::thread_id()));
        Sender::Room room;
        CHECK(sender.try_reserve(bytes, room));
        loan = sender.make_loan(room);
        memory = room.bytes;
        sender.open_chunk(room, loan);
        ticket = sender.entrust_turn();
    }
    bool publish() {
        if (!sender.redeem_turn(ticket)) return false;
        sender.publish_chunk(Encoding::raw, false);
        sender.give_turn_back();
        return true;
    }

    Sender& sender;
    std::shared_ptr<Loan> loan;
    std::byte* memory = nullptr;
    std::uint64_t ticket = 0;
};

}  // namespace

TEST(a_shutdown_drops_an_open_chunk_and_readers_hear_of_the_end_whoever_comes_first) {
    for (int n = 0; n < 200 * check::kScale; ++n) {
        const auto segment = make(1, 50'000, 4, 0);
        const auto attached = Segment::attach(segment->name(), Access::read, "test");
        Receiver receiver(attached, Strategy::park(), claim_seat(*attached, 0));
        Sender sender(segment, Strategy::park(), {});
        OpenChunk chunk(sender, n % 2 == 0 ? 100 : 50'000);
        std::memset(chunk.memory, 7, 100);
        std::thread stopper([&] { sender.shut_down(); });
        const bool published = chunk.publish();
        stopper.join();
        std::vector<std::byte> bytes;
        CHECK(receive(receiver, bytes) == published);
        if (published) CHECK(!receive(receiver, bytes));
        CHECK(sender.messages() == (published ? 1 : 0));
        CHECK(!sender.has_open_chunk());
    }
}

TEST(a_dropped_chunk_s_block_is_kept_until_its_loan_has_ended) {
    const auto segment = make(1, 50'000, 4, 0);
    const auto attached = Segment::attach(segment->name(), Access::read, "test");
    Receiver receiver(attached, Strategy::park(), claim_seat(*attached, 0));
    Sender sender(segment, Strategy::park(), {});
    OpenChunk chunk(sender, 50'000);
    CHECK(sender.redeem_turn(chunk.ticket));
    sender.drop_chunk();
    CHECK(!sender.redeem_turn(chunk.ticket));  // while this thread has the turn
    std::vector<std::byte> bytes;
    for (std::uint64_t number = 0; number < 50; ++number) {
        std::memset(chunk.memory, 255, 50'000);
        send(sender, number, 50'000);
        std::memset(chunk.memory, 255, 50'000);
        CHECK(receive(receiver, bytes));
        CHECK(std::memcmp(bytes.data(), &number, 8) == 0 && bytes.back() == std::byte(number));
    }
    sender.reclaim();
    CHECK(segment->ring().control->blocks_in_use.load() == 1);
    chunk.loan.reset();
    sender.reclaim();
    CHECK(segment->ring().control->blocks_in_use.load() == 0);
    sender.give_turn_back();
}

namespace {

// One try that is refused: does it belong to the wait that was there before?
bool goes_on(Sender& sender, std::uint64_t bytes) {
    Sender::Room room;
    std::int64_t before = 0;
    do {
        before = platform::monotonic_ns();
    } while (before <= sender.waiting_since_ns());
    CHECK(!sender.try_reserve(bytes, room));
    return sender.waiting_since_ns() < before;
}

void let_time_pass(std::int64_t ns) {
    const std::int64_t until = platform::monotonic_ns() + ns;
    while (platform::monotonic_ns() < until) std::this_thread::yield();
}

constexpr std::int64_t kPatienceNs = 20'000'000;

}  // namespace

TEST(a_wait_for_room_is_the_same_for_as_long_as_there_has_been_none_for_such_a_message) {
    const auto segment = make(1, 50'000, 8, 280'000);
    const auto attached = Segment::attach(segment->name(), Access::read, "test");
    Receiver receiver(attached, Strategy::park(), claim_seat(*attached, 0));
    Sender sender(segment, Strategy::park(), {});
    std::vector<std::byte> bytes;
    Sender::Room room;
    std::uint64_t number = 0;
    while (sender.try_reserve(40'000, room)) {  // until there is no memory, but a slot
        send(sender, number++, 40'000);
    }
    CHECK(number > 1 && number < 8);
    CHECK(goes_on(sender, 40'000));
    CHECK(goes_on(sender, 30'000));
    CHECK(goes_on(sender, 50'000));  // nothing has come back
    CHECK(receive(receiver, bytes));
    CHECK(!goes_on(sender, 100'000));  // for less there is room now
    CHECK(goes_on(sender, 100'000));
    send(sender, number++, 64);
    while (sender.try_reserve(64, room)) send(sender, number++, 64);  // until there is no slot
    CHECK(goes_on(sender, 64));
    CHECK(goes_on(sender, 100'000));
    CHECK(receive(receiver, bytes));
    CHECK(sender.try_reserve(64, room));
    send(sender, number++, 64);
    CHECK(!goes_on(sender, 64));
    CHECK(goes_on(sender, 64));
}

TEST(a_reader_that_has_come_during_a_wait_has_a_patience_of_its_own) {
    const auto segment = make(1, 100, 2, 0);
    const auto attached = Segment::attach(segment->name(), Access::read, "test");
    Sender sender(segment, Strategy::park(), {.slow = ReaderPolicy::Slow::evict, .patience_ns = kPatienceNs});
    CHECK(sender.readers().promise());
    for (std::uint64_t number = 0; number < 2; ++number) send(sender, number, 64);
    Sender::Room room;
    CHECK(!sender.try_reserve(64, room));
    let_time_pass(kPatienceNs);
    Receiver receiver(attached, Strategy::park(), claim_seat(*attached, 0));
    CHECK(sender.patience_over());
    CHECK(!sender.check_room(true));
    let_time_pass(kPatienceNs);
    const auto eviction = sender.check_room(true);
    CHECK(eviction && eviction->cause == Eviction::Cause::slow);
    CHECK(sender.try_reserve(64, room));
}

TEST(the_chunk_of_a_thread_that_has_ended_is_dropped_for_whoever_needs_the_turn_and_no_other_s) {
    const auto segment = make(1, 50'000, 4, 0);
    Sender sender(segment, Strategy::park(), {});
    std::optional<OpenChunk> chunk;
    chunk.emplace(sender, 100);
    CHECK(sender.opened_chunk());
    sender.drop_orphaned_chunk();
    CHECK(sender.has_open_chunk());
    CHECK(chunk->publish());
    std::thread([&] { chunk.emplace(sender, 100); }).join();
    CHECK(!sender.opened_chunk());
    while (sender.has_open_chunk()) sender.drop_orphaned_chunk();  // a joined thread is about to end
    CHECK(!chunk->publish());
    CHECK(sender.messages() == 1);
    CHECK(sender.try_take_turn(platform::thread_id()));
    sender.give_turn_back();
}

TEST(an_end_counts_in_the_segment_and_a_seat_s_next_holder_begins_anew) {
    const auto segment = make(1, 1000, 4, 0);
    const auto seen = Segment::attach(segment->name(), Access::observe, "test");
    const NativeSeat& seat = seen->ring().seats[0];
    const auto counts = [&] { return waits_of(seat, seat.state.load()); };
    const auto park = [](Receiver& receiver) {
        // A wait whose time is over before it would park does not.
        for (const std::uint64_t before = receiver.counts().parks; receiver.counts().parks == before;) {
            receiver.begin_wait();
            CHECK(!receiver.await_message(platform::monotonic_ns() + 1'000'000));
            receiver.waiter().finish(false);
        }
    };
    CHECK(!counts());
    Sender sender(segment, Strategy::park(), {});
    CHECK(seen->ring().control->waits.load_of(kWritersIncarnation)->parks == 0);
    const auto attached = Segment::attach(segment->name(), Access::read, "test");
    Receiver first(attached, Strategy::park(), claim_seat(*attached, 0));
    CHECK(counts()->parks == 0);
    park(first);
    park(first);
    first.count_long_wait();
    CHECK(counts()->parks == 2 && counts()->long_waits == 1 && first.counts().parks == 2);
    first.shut_down();
    CHECK(!counts());

    Receiver second(attached, Strategy::park(), claim_seat(*attached, 0));
    CHECK(counts()->parks == 0 && counts()->long_waits == 0);
    park(second);
    first.count_long_wait();  // for itself
    CHECK(counts()->parks == 1 && counts()->long_waits == 0);
    CHECK(first.counts().parks == 2 && first.counts().long_waits == 2);
    second.shut_down();
    second.release();
    CHECK(second.counts().parks == 1);
    sender.shut_down();
    sender.release();
    sender.count_long_wait();
    CHECK(sender.counts().long_waits == 1);
}

TEST(who_looks_sees_the_counts_of_one_holder_only) {
    WaitCounters<platform::Native> counters{};
    std::atomic<std::uint64_t> holder{0};
    std::atomic<bool> done{false};
    std::atomic<std::uint64_t> seen{0};
    std::thread looker([&] {
        while (!done.load()) {
            const std::uint64_t whose = holder.load(std::memory_order_relaxed);
            const auto counts = counters.load_of(whose);
            if (!counts) continue;
            ++seen;
            for (const std::uint64_t count : {counts->brief, counts->parks, counts->penalties})
                CHECK(count == 0 || count == whose + 1);
        }
    });
    for (std::uint64_t whose = 1; whose <= 20'000ull * check::kScale || seen.load() == 0; ++whose) {
        counters.begin(whose);
        holder.store(whose, std::memory_order_relaxed);
        for (auto* count : {&counters.penalties, &counters.brief, &counters.parks}) counters.add(*count, whose + 1);
        if (whose % 1000 == 0) std::this_thread::yield();
    }
    done.store(true);
    looker.join();
    CHECK(seen.load() > 0);
}
