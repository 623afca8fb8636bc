// The parking handshake, hammered: a sleeper that only its time-out wakes is a lost wake-up, and there may be none.
#include "parking.hpp"

#include <random>
#include <thread>
#include <vector>

#include "check.hpp"
#include "platform/policy.hpp"

using ringcast::ParkResult;
using Native = ringcast::platform::Native;

namespace {

// A wake-up that is lost is rescued after this, however long it is; one that comes late, by a waker who lost its CPU after its
// store, is not.
constexpr std::int64_t kSlice = 2'000'000'000;

struct alignas(128) Side {
    ringcast::Parked<Native> parked{};
    alignas(128) std::atomic<std::uint64_t> condition{0};
    alignas(128) std::atomic<std::uint64_t> other{0};
};

void tell(Side& side, std::atomic<std::uint64_t>& condition, std::uint64_t value) {
    condition.store(value, std::memory_order_release);
    Native::fence_seq_cst();
    ringcast::unpark<Native>(side.parked);
}

template <class Ready>
void sleep_until(Side& side, std::uint64_t& rescued, Ready&& ready) {
    while (!ready())
        if (ringcast::park<Native>(side.parked, 1, kSlice, ready) == ParkResult::rescued) ++rescued;
}

void jitter(std::mt19937& random) {
    for (auto n = random() % 64; n != 0; --n) Native::pause();
}

// For up to some hundred nanoseconds, in small steps.
void linger(std::mt19937& random) {
    for (auto n = random() % 256; n != 0; --n) std::atomic_signal_fence(std::memory_order_seq_cst);
}

}  // namespace

TEST(two_ends_that_wake_each_other_lose_no_wake_up) {
    Side a;
    Side b;
    const std::uint64_t rounds = 4'000ull * check::kScale;
    std::uint64_t rescued_a = 0;
    std::uint64_t rescued_b = 0;
    std::thread other([&] {
        std::mt19937 random(1);
        for (std::uint64_t n = 1; n <= rounds; ++n) {
            sleep_until(b, rescued_b, [&] { return b.condition.load(std::memory_order_acquire) >= n; });
            jitter(random);
            tell(a, a.condition, n);
        }
    });
    std::mt19937 random(2);
    for (std::uint64_t n = 1; n <= rounds; ++n) {
        tell(b, b.condition, n);
        jitter(random);
        sleep_until(a, rescued_a, [&] { return a.condition.load(std::memory_order_acquire) >= n; });
    }
    other.join();
    CHECK(rescued_a == 0);
    CHECK(rescued_b == 0);
}

TEST(one_word_covers_conditions_that_different_threads_make_true) {
    Side sleeper;
    std::atomic<std::uint64_t> seen{0};
    const std::uint64_t rounds = 2'000ull * check::kScale;
    std::uint64_t rescued = 0;
    const auto waker = [&](std::atomic<std::uint64_t>& condition, unsigned seed) {
        std::mt19937 random(seed);
        for (std::uint64_t n = 1; n <= rounds; ++n) {
            jitter(random);
            tell(sleeper, condition, n);
            while (seen.load(std::memory_order_acquire) < n) std::this_thread::yield();
        }
    };
    std::thread first([&] { waker(sleeper.condition, 3); });
    std::thread second([&] { waker(sleeper.other, 4); });
    for (std::uint64_t n = 1; n <= rounds; ++n) {
        sleep_until(sleeper, rescued, [&] {
            return sleeper.condition.load(std::memory_order_acquire) >= n &&
                   sleeper.other.load(std::memory_order_acquire) >= n;
        });
        seen.store(n, std::memory_order_release);
    }
    first.join();
    second.join();
    CHECK(rescued == 0);
}

// The waker polls for the sleeper, so that both meet within nanoseconds, where a store still waits in a store buffer.
TEST(a_waker_that_comes_just_when_the_sleeper_parks_is_noticed) {
    Side side;
    std::atomic<std::uint64_t> seen{0};
    const std::uint64_t rounds = 4'000ull * check::kScale;
    std::uint64_t rescued = 0;
    std::thread waker([&] {
        std::mt19937 random(5);
        for (std::uint64_t n = 1; n <= rounds; ++n) {
            for (std::uint32_t looks = 0; seen.load(std::memory_order_acquire) < n - 1; ++looks)
                if (looks % 1024 == 1023) std::this_thread::yield();
            linger(random);
            tell(side, side.condition, n);
        }
    });
    std::mt19937 random(6);
    for (std::uint64_t n = 1; n <= rounds; ++n) {
        const auto ready = [&] { return side.condition.load(std::memory_order_acquire) >= n; };
        linger(random);
        if (ringcast::park<Native>(side.parked, 1, kSlice, ready) == ParkResult::rescued) ++rescued;
        sleep_until(side, rescued, ready);
        seen.store(n, std::memory_order_release);
    }
    waker.join();
    CHECK(rescued == 0);
}

TEST(a_condition_that_came_true_before_parking_is_seen_without_sleeping) {
    Side side;
    CHECK(ringcast::park<Native>(side.parked, 1, kSlice, [] { return true; }) == ParkResult::ready);
    CHECK(side.parked.word.load() == 0);
}

TEST(a_condition_that_nobody_announces_is_counted_as_rescued) {
    Side side;
    int looks = 0;
    CHECK(ringcast::park<Native>(side.parked, 7, 1'000'000, [&] { return ++looks > 1; }) == ParkResult::rescued);
    CHECK(side.parked.word.load() == 0);
}

TEST(a_wait_that_nothing_ends_is_over_after_its_time) {
    Side side;
    CHECK(ringcast::park<Native>(side.parked, 7, 1'000'000, [] { return false; }) == ParkResult::timed_out);
    CHECK(side.parked.word.load() == 0);
}
