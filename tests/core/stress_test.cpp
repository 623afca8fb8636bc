// Everything at once over a real segment, for RINGCAST_STRESS_SECONDS: readers that stay, join, leave with views held,
// are stopped by other threads, and are evicted and come back; views and loans that end in another thread; every way of
// parking; rings and memory from ample to tight. Each word of each message says which message it is, and each reader
// gets a gapless piece. All ends map the segment once (one_mapping.cpp), so a thread sanitizer sees them share it.
#include <atomic>
#include <cstdio>
#include <cstdlib>
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

// An evicted reader may copy a slot while the writer overwrites it, and throws that copy away. To a thread sanitizer it
// is a race, so there the writer evicts only between two messages.
#if defined(__SANITIZE_THREAD__)
constexpr bool kEvictsInMidCopy = false;
#else
constexpr bool kEvictsInMidCopy = true;
#endif

constexpr std::uint32_t kSteady = 2;    // ranks 0, 1
constexpr std::uint32_t kVisitors = 2;  // ranks 2, 3
constexpr std::uint32_t kEvictable = kSteady + kVisitors;
constexpr std::uint32_t kReaders = kEvictable + 1;
constexpr std::uint32_t kLeastRounds = 4;

double from_environment(const char* name, double otherwise) {
    const char* text = std::getenv(name);
    return text == nullptr ? otherwise : std::atof(text);
}

struct Figures {
    std::atomic<std::uint64_t> sent{0}, in_blocks{0}, read{0}, leased{0}, loaned{0}, joined{0}, evicted{0}, stopped{0};
};

std::uint64_t word_of(std::uint64_t number, std::uint64_t index) {
    return (number + 1) * 0x9e37'79b9'7f4a'7c15 + index;
}

std::uint64_t size_of(std::uint64_t number, std::uint64_t largest) {
    std::mt19937_64 random(number);
    return 8 * (1 + random() % ((random() % 3 == 0 ? largest : 1000) / 8));
}

void write_message(std::byte* to, std::uint64_t bytes, std::uint64_t number) {
    for (std::uint64_t i = 0; i < bytes / 8; ++i) {
        const std::uint64_t word = word_of(number, i);
        std::memcpy(to + 8 * i, &word, 8);
    }
}

void check_message(const std::byte* from, std::uint64_t bytes, std::uint64_t number, std::uint64_t largest) {
    CHECK(bytes == size_of(number, largest));
    for (std::uint64_t i = 0; i < bytes / 8; ++i) {
        std::uint64_t word;
        std::memcpy(&word, from + 8 * i, 8);
        CHECK(word == word_of(number, i));
    }
}

// Ends what it is given in a thread of its own, in any order, and looks at the bytes before that.
class Dropper {
public:
    struct Kept {
        std::uint64_t number;
        const std::byte* bytes;
        std::uint64_t length;
        std::unique_ptr<Lease> lease;
        std::shared_ptr<Loan> loan;  // or this
    };

    explicit Dropper(std::uint64_t largest) : largest_(largest), thread_([this] { run(); }) {}
    ~Dropper() {
        done_.store(true);
        thread_.join();
    }
    void keep(Kept kept) {
        const std::lock_guard guard(mutex_);
        kept_.push_back(std::move(kept));
    }

private:
    std::optional<Kept> take() {
        const std::lock_guard guard(mutex_);
        if (kept_.empty()) return std::nullopt;
        std::swap(kept_[random_() % kept_.size()], kept_.back());
        std::optional<Kept> taken(std::move(kept_.back()));
        kept_.pop_back();
        return taken;
    }
    void run() {
        for (;;) {
            const bool last = done_.load();
            auto taken = take();
            if (!taken) {
                if (last) return;
                std::this_thread::yield();
                continue;
            }
            check_message(taken->bytes, taken->length, taken->number, largest_);
        }
    }

    std::uint64_t largest_;
    std::mt19937_64 random_{7};
    std::atomic<bool> done_{false};
    std::mutex mutex_;
    std::vector<Kept> kept_;
    std::thread thread_;
};

struct Round {
    Round(Figures& all, std::uint64_t seed, std::uint32_t depth, std::uint64_t largest_message, std::uint64_t budget)
        : figures(all), random(seed), largest(largest_message), segment(make(depth, budget)), dropper(largest) {}

    std::shared_ptr<Segment> make(std::uint32_t depth, std::uint64_t budget) const {
        std::vector<std::uint32_t> ranks(kReaders);
        for (std::uint32_t i = 0; i < kReaders; ++i) ranks[i] = i;
        char name[32];
        std::snprintf(name, sizeof name, "ringcast_st%u", platform::process_id());
        return Segment::create({name, "stress", "test",
                                plan_geometry(kReaders, kReaders, largest, depth, budget, 0, platform::page_bytes()),
                                ranks});
    }

    Figures& figures;
    std::mt19937_64 random;
    std::uint64_t largest;
    std::shared_ptr<Segment> segment;
    Dropper dropper;
    std::mutex between_messages;                   // of the evictable reader; see kEvictsInMidCopy
    std::atomic<std::uint64_t> total{UINT64_MAX};  // messages, once all are sent
};

Strategy any_strategy(std::mt19937_64& random) {
    const Strategy all[] = {Strategy::park(), Strategy::yield(), Strategy::adaptive_default(), Strategy::busy(100'000)};
    return all[random() % std::size(all)];
}

template <class End>
void check_wakes(End& end) {
    CHECK(end.counts().rescued_wakes <= check::kForgivenRescues);
}

enum class Ended { closed, enough, evicted, stopped };

// Waits for a message and takes it, in one of the ways there are. Throws closed, reader_evicted.
void take_message(Round& round, Receiver& receiver, std::uint64_t number, std::mt19937_64& random) {
    while (!receiver.readable()) {
        receiver.check_end(true);
        receiver.begin_wait();
        if (!receiver.await_message_briefly()) receiver.await_message(kForever);
        receiver.waiter().finish(true);
        if (receiver.stopped()) return;
    }
    std::unique_lock guard(round.between_messages, std::defer_lock);
    if (!kEvictsInMidCopy && receiver.rank() == kEvictable) {
        guard.lock();
        receiver.check_end(false);
    }
    const Receiver::Message message = receiver.current();
    if (message.in_block() && random() % 2 == 0) {
        const std::byte* view = receiver.view(message, true);
        auto lease = std::make_unique<Lease>(receiver.consume_leased(
            message, view != nullptr ? Lease::Through::private_readonly : Lease::Through::shared));
        receiver.settle();
        round.figures.leased.fetch_add(1);
        const std::byte* bytes = view != nullptr ? view : message.bytes;
        round.dropper.keep({number, bytes, message.length, std::move(lease), nullptr});
    } else {
        const std::vector<std::byte> copy(message.bytes, message.bytes + message.length);
        receiver.consume(message);
        receiver.settle();
        check_message(copy.data(), copy.size(), number, round.largest);
    }
    round.figures.read.fetch_add(1);
}

// Attaches, reads up to `most` messages, leaves. Another thread may stop it meanwhile.
Ended visit(Round& round, std::uint32_t rank, std::uint64_t most, std::mt19937_64& random) {
    const auto segment = Segment::attach(round.segment->name(), Access::read, "test");
    std::optional<Claim> claim;
    while (!claim) {
        try {
            claim = claim_seat(*segment, rank);
        } catch (const Error& error) {
            CHECK(error.code() == ErrorCode::rank_taken);  // views that are not dropped yet have all spare seats
            std::this_thread::yield();
        }
    }
    round.figures.joined.fetch_add(1);
    Receiver receiver(segment, any_strategy(random), *claim);
    std::thread stopper;
    if (rank >= kSteady && random() % 8 == 0) stopper = std::thread([&] { receiver.shut_down(); });
    Ended ended = Ended::enough;
    for (std::uint64_t number = claim->first; ended == Ended::enough && number - claim->first < most; ++number) {
        if (!receiver.try_take_turn(platform::thread_id())) {
            ended = Ended::stopped;  // nobody but the stopper takes turns here
            break;
        }
        try {
            if (receiver.stopped())
                ended = Ended::stopped;
            else
                take_message(round, receiver, number, random);
        } catch (const Error& error) {
            CHECK(error.code() == ErrorCode::closed || error.code() == ErrorCode::reader_evicted);
            ended = error.code() == ErrorCode::closed ? Ended::closed : Ended::evicted;
            if (ended == Ended::closed) CHECK(number == round.total.load());
        }
        receiver.give_turn_back();
    }
    if (stopper.joinable()) stopper.join();
    if (ended == Ended::stopped) round.figures.stopped.fetch_add(1);
    check_wakes(receiver);
    return ended;
}

void keep_visiting(Round& round, std::uint32_t rank, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    for (;;) {
        const Ended ended =
            visit(round, rank, rank < kSteady || rank == kEvictable ? UINT64_MAX : 1 + random() % 200, random);
        CHECK(ended != Ended::evicted || rank == kEvictable);
        CHECK(rank >= kSteady || ended == Ended::closed);
        if (ended == Ended::closed) return;
        const auto looked_at = Segment::attach(round.segment->name(), Access::observe, "test");
        CHECK(looked_at->creator_alive());
    }
}

void send(Round& round, Sender& sender, std::uint64_t number) {
    const std::uint64_t bytes = size_of(number, round.largest);
    Sender::Room room;
    if (round.random() % 64 == 0) sender.try_reserve(bytes, room);  // and forgotten, as an exception would
    while (!sender.try_reserve(bytes, room)) {
        sender.begin_wait();
        if (!sender.await_room_briefly()) sender.await_room(kForever);
        sender.waiter().finish(true);
        CHECK(!sender.check_room(false));  // nobody has died
    }
    write_message(room.bytes, bytes, number);
    if (room.in_block) round.figures.in_blocks.fetch_add(1);
    if (!room.in_block || round.random() % 4 != 0) {
        sender.commit(room, Encoding::raw, false, round.random() % 4 == 0);
        return;
    }
    const auto loan = sender.make_loan(room);
    sender.open_chunk(room, loan);
    const bool dropped = round.random() % 8 == 0;  // with views that live on
    if (dropped)
        sender.drop_chunk();
    else
        sender.publish_chunk(Encoding::raw, true);
    round.figures.loaned.fetch_add(1);
    round.dropper.keep({number, room.bytes, bytes, nullptr, loan});
    if (dropped) send(round, sender, number);
}

void evict(Round& round, Sender& sender) {
    std::unique_lock guard(round.between_messages, std::defer_lock);
    if (!kEvictsInMidCopy && !guard.try_lock()) return;
    if (sender.readers().evict(kEvictable)) round.figures.evicted.fetch_add(1);
}

void run(Round& round, std::int64_t until_ns) {
    std::vector<std::thread> threads;
    for (std::uint32_t rank = 0; rank < kReaders; ++rank)
        threads.emplace_back([&, rank, seed = round.random()] { keep_visiting(round, rank, seed); });
    {
        Sender sender(round.segment, any_strategy(round.random), {});
        while (!sender.ready()) sender.await_ready(kForever);
        std::uint64_t number = 0;
        for (; platform::monotonic_ns() < until_ns; ++number) {
            send(round, sender, number);
            if (round.random() % 16 == 0) evict(round, sender);
        }
        round.figures.sent.fetch_add(number);
        round.total.store(number);
        sender.shut_down();
        for (auto& thread : threads) thread.join();
        check_wakes(sender);
        while (round.segment->ring().control->blocks_in_use.load() != 0) {  // until the last view is dropped
            sender.reclaim();
            std::this_thread::yield();
        }
    }
}

}  // namespace

TEST(every_message_is_right_while_everything_happens_at_once) {
    const double seconds = from_environment("RINGCAST_STRESS_SECONDS", 1.0);
    const auto seed = static_cast<std::uint64_t>(from_environment("RINGCAST_STRESS_SEED", 1));
    const auto rounds = std::max(kLeastRounds, static_cast<std::uint32_t>(seconds));
    const auto round_ns = static_cast<std::int64_t>(seconds * 1e9 / rounds);
    Figures f;
    for (std::uint32_t n = 0; n < rounds; ++n) {
        constexpr std::uint32_t kDepths[] = {1, 2, 16, 64};
        constexpr std::uint64_t kBudgets[] = {0, 600'000};  // the default, and a few of the largest messages
        Round round(f, seed + n, kDepths[n % 4], n % 3 == 0 ? 100'000 : 20'000, kBudgets[n / 2 % 2]);
        run(round, platform::monotonic_ns() + round_ns);
    }
    CHECK(f.sent > 0 && f.leased > 0 && f.loaned > 0 && f.joined > kReaders * rounds);
    std::printf(
        "stress: seed %llu, %.1f s, %u rounds: %llu messages sent (%llu in blocks, %llu of them loaned), %llu read "
        "(%llu leased); %llu joins, %llu evictions, %llu stops\n",
        static_cast<unsigned long long>(seed), seconds, rounds, static_cast<unsigned long long>(f.sent),
        static_cast<unsigned long long>(f.in_blocks), static_cast<unsigned long long>(f.loaned),
        static_cast<unsigned long long>(f.read), static_cast<unsigned long long>(f.leased),
        static_cast<unsigned long long>(f.joined), static_cast<unsigned long long>(f.evicted),
        static_cast<unsigned long long>(f.stopped));
}
