// What is done before a park, on a simulated machine whose clock moves only by what is done.
#include "waiting.hpp"

#include <vector>

#include "check.hpp"

using ringcast::Budget;
using ringcast::kForever;
using ringcast::Strategy;

namespace {

constexpr std::int64_t kUs = 1'000;
constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kS = 1'000'000'000;

struct Machine {
    std::int64_t now = 100 * kS;
    std::int64_t cpu = 0;  // of the waiting thread
    std::int64_t yield_takes = 240;
    std::int64_t yield_elsewhere = 0;  // of a yield, others have the CPU for so long
    std::int64_t wake_takes = 50 * kUs;
    std::int64_t due = kForever;  // when what is waited for comes
    bool stamps = true;
    std::vector<std::int64_t> parks;  // for how long, at most
    std::uint64_t yields = 0;

    void work(std::int64_t ns) {
        now += ns;
        cpu += ns;
    }
};
Machine machine;

struct Simulated {
    template <class T>
    using atomic = std::atomic<T>;
    using futex_word = std::atomic<std::uint32_t>;
    static std::int64_t now_ns() noexcept { return machine.now; }
    static std::int64_t thread_cpu_ns() noexcept { return machine.cpu; }
    static void yield() noexcept {
        ++machine.yields;
        machine.work(machine.yield_takes);
        machine.now += machine.yield_elsewhere;
    }
    static void pause() noexcept { machine.work(20); }
    static void fence_seq_cst() noexcept {}
    static void futex_wake_all(futex_word&) noexcept {}
    template <class Point>
    static void reached(Point) noexcept {}
    static ringcast::platform::FutexResult futex_wait(futex_word& word, std::uint32_t, std::int64_t timeout) noexcept;
};

ringcast::Parked<Simulated> parked;

ringcast::platform::FutexResult Simulated::futex_wait(futex_word& word, std::uint32_t, std::int64_t timeout) noexcept {
    machine.parks.push_back(timeout);
    if (machine.due - machine.now > timeout) {
        machine.now += timeout;
        return ringcast::platform::FutexResult::timed_out;
    }
    machine.now = std::max(machine.now, machine.due);
    if (machine.stamps) parked.woken_at.store(machine.now);
    word.store(0);
    machine.now += machine.wake_takes;
    machine.work(5 * kUs);
    return ringcast::platform::FutexResult::woken;
}

using Waiter = ringcast::Waiter<Simulated>;
using WaitCounters = ringcast::WaitCounters<Simulated>;

// One wait, for something that comes after `wait` ns. False: it did not come within `timeout`.
bool wait_for(Waiter& waiter, std::int64_t wait, std::int64_t timeout = kForever) {
    const auto ready = [] { return machine.now >= machine.due; };
    machine.due = wait == kForever ? kForever : machine.now + wait;
    waiter.begin();
    const std::int64_t deadline = timeout == kForever ? kForever : waiter.started_ns() + timeout;
    bool done = waiter.briefly(ready);
    while (!done && machine.now < deadline) done = waiter.slice(parked, 1, deadline, ready);
    waiter.finish(done);
    return done;
}

struct World {
    World() { machine = Machine{}; }
    WaitCounters counters{};
    Waiter waiter{Strategy::adaptive_default(), counters};

    std::uint64_t vain_ns() const { return counters.vain_ns.load(); }
    // So many waits of one length, with some work after each.
    void wait_for(int times, std::int64_t wait, std::int64_t work = 0) {
        for (int i = 0; i < times; ++i) {
            CHECK(::wait_for(waiter, wait));
            machine.now += work;
        }
    }
    // Of the time since, how much CPU was used?
    template <class Do>
    static double share(Do&& something) {
        const std::int64_t now = machine.now;
        const std::int64_t cpu = machine.cpu;
        something();
        return static_cast<double>(machine.cpu - cpu) / static_cast<double>(machine.now - now);
    }
};

}  // namespace

TEST(short_waits_are_stayed_awake_for_and_cost_nothing) {
    World world;
    world.wait_for(10'000, 30 * kUs, 20 * kUs);
    CHECK(machine.parks.empty());
    CHECK(world.vain_ns() == 0);
    CHECK(world.counters.awake.load() > 9'990 && world.counters.parked.load() == 0);
}

TEST(the_shortest_waits_keep_the_interpreter_s_lock_and_longer_ones_do_not) {
    World world;
    world.wait_for(100, kUs);
    CHECK(world.counters.brief.load() == 100);
    world.wait_for(10, 40 * kUs);
    CHECK(!world.waiter.briefly([] { return false; }));
    const std::int64_t before = machine.now;
    world.waiter.begin();
    CHECK(!world.waiter.briefly([] { return false; }));
    CHECK(machine.now == before);
    world.waiter.finish(true);
}

TEST(whose_yields_let_others_run_gives_way_at_once_until_they_do_so_no_more) {
    World world;
    world.wait_for(1, 2 * Budget::kBriefNs);
    machine.yield_elsewhere = 3 * kUs;
    world.wait_for(1, 2 * Budget::kBriefNs);
    world.wait_for(100, kUs);
    CHECK(world.counters.brief.load() == 0);
    CHECK(world.counters.awake.load() == 102);
    machine.yield_elsewhere = 0;
    world.wait_for(Budget::kSharedYields, machine.yield_takes);
    CHECK(world.counters.brief.load() == 0);
    world.wait_for(100, kUs);
    CHECK(world.counters.brief.load() == 100);
}

TEST(where_any_call_takes_long_that_is_no_sign_of_others) {
    World world;
    machine.yield_takes = 2 * Budget::kSwitchNs;
    world.wait_for(1, 2 * Budget::kBriefNs);
    world.wait_for(100, kUs);
    CHECK(world.counters.brief.load() == 100);
}

TEST(a_slow_cadence_costs_little_and_parks) {
    World world;
    world.wait_for(200, 5 * kMs);
    const double share = World::share([&] { world.wait_for(1'000, 5 * kMs); });
    CHECK(share < 0.01);
    CHECK(world.counters.parked.load() == 1'200);
}

TEST(a_cadence_just_above_half_a_millisecond_costs_a_few_percent_at_most) {
    World world;
    world.wait_for(5'000, 600 * kUs);
    CHECK(World::share([&] { world.wait_for(5'000, 600 * kUs); }) < 0.03);
}

TEST(a_cadence_of_400_us_keeps_an_end_awake) {
    World world;
    world.wait_for(1'000, 400 * kUs);  // it learns that, and saves up for it
    machine.parks.clear();
    world.wait_for(10'000, 400 * kUs);
    CHECK(machine.parks.empty());
}

TEST(a_wake_up_s_own_time_does_not_make_a_wait_look_long) {
    World world;
    world.wait_for(100, 5 * kMs);
    machine.wake_takes = 900 * kUs;  // as long as that may be, two ends that answer each other find out
    world.wait_for(100, 60 * kUs);
    const std::uint64_t parks = machine.parks.size();
    world.wait_for(1'000, 60 * kUs);
    CHECK(machine.parks.size() == parks);
}

TEST(a_stamp_of_an_earlier_wake_up_is_not_believed) {
    World world;
    parked.woken_at.store(machine.now);
    machine.stamps = false;
    world.wait_for(1, 5 * kMs);
    world.wait_for(1, 5 * kMs);
    CHECK(world.counters.wake_ns.load() == 0);
    machine.stamps = true;
    world.wait_for(1, 5 * kMs);
    CHECK(world.counters.wake_ns.load() == static_cast<std::uint64_t>(machine.wake_takes + 5 * kUs));
}

TEST(who_asks_again_and_again_with_a_short_time_out_is_charged_for_it) {
    World world;
    const auto poll = [&] {
        for (int i = 0; i < 10'000; ++i) CHECK(!wait_for(world.waiter, kForever, 200 * kUs));
    };
    poll();
    CHECK(World::share(poll) < 0.05);
}

TEST(a_burst_after_a_pause_is_met_awake_after_its_first_message) {
    World world;
    for (int burst = 0; burst < 50; ++burst) {
        world.wait_for(1, 5 * kMs);
        world.wait_for(19, 30 * kUs);
    }
    machine.parks.clear();
    for (int burst = 0; burst < 50; ++burst) {
        world.wait_for(1, 5 * kMs);
        world.wait_for(19, 30 * kUs);
    }
    CHECK(machine.parks.size() <= 2 * 50);
}

TEST(a_yield_that_takes_long_sends_the_end_to_sleep_for_longer_each_time_it_recurs) {
    World world;
    machine.yield_elsewhere = 3 * kMs;  // another's time slice
    machine.due = kForever;
    std::vector<std::int64_t> without;  // how long no yield was tried
    std::int64_t last = 0;
    for (int i = 0; i < 20'000; ++i) {
        const std::uint64_t before = world.counters.penalties.load();
        const std::int64_t at = machine.now;
        world.wait_for(1, kMs);
        if (world.counters.penalties.load() == before) continue;
        if (last != 0) without.push_back(at - last);
        last = at;
    }
    CHECK(without.size() >= 6);
    CHECK(without[0] >= 100 * kMs && without[0] < 110 * kMs);
    for (std::size_t i = 1; i < 5; ++i) CHECK(without[i] >= 2 * without[i - 1] - 20 * kMs);
    CHECK(without.back() < 3'300 * kMs);

    machine.yield_elsewhere = 0;  // calm again, for long
    world.wait_for(3'000, 5 * kMs);
    const std::uint64_t penalties = world.counters.penalties.load();
    world.wait_for(10, 30 * kUs);
    CHECK(world.counters.penalties.load() == penalties);
    machine.yield_elsewhere = 3 * kMs;
    world.wait_for(1, 10 * kMs);
    CHECK(world.counters.penalties.load() == penalties + 1);
    machine.yield_elsewhere = 0;
    machine.now += 101 * kMs;  // one may recur: it is the first again
    machine.parks.clear();
    world.wait_for(1'000, 30 * kUs);
    CHECK(machine.parks.size() <= 1);
}

TEST(a_time_slice_lost_now_and_then_is_no_reason_to_sleep_if_waits_are_short) {
    for (const std::int64_t wait : {kUs, 30 * kUs}) {
        World world;
        world.wait_for(600, wait);
        for (int i = 0; i < 100; ++i) {
            machine.yield_elsewhere = 3 * kMs;
            world.wait_for(1, 40 * kUs);
            machine.yield_elsewhere = 0;
            world.wait_for(200, wait);  // 200 wake-ups would have taken longer
        }
        CHECK(world.counters.penalties.load() == 0);
        machine.yield_elsewhere = 3 * kMs;
        for (int i = 0; i < 20; ++i) world.wait_for(1, 40 * kUs);
        CHECK(world.counters.penalties.load() == 1);
    }
}

TEST(more_ends_than_cpus_make_a_longer_yield_one_s_own_peers) {
    World world;
    world.waiter.set_excess(3);
    machine.yield_elsewhere = 4 * 500 * kUs - 300;
    world.wait_for(100, 3 * kMs);
    CHECK(world.counters.penalties.load() == 0);
    machine.yield_elsewhere = 4 * 500 * kUs + kUs;
    world.wait_for(1, 5 * kMs);
    CHECK(world.counters.penalties.load() == 1);
}

TEST(a_busy_end_is_awake_for_its_window_without_being_charged) {
    World world;
    Waiter busy(Strategy::busy(2 * kMs), world.counters);
    for (int i = 0; i < 1'000; ++i) CHECK(wait_for(busy, 1'800 * kUs));
    CHECK(machine.parks.empty());
    for (int i = 0; i < 100; ++i) CHECK(wait_for(busy, 10 * kMs));
    CHECK(machine.parks.size() == 100);
    machine.parks.clear();
    for (int i = 0; i < 1'000; ++i) CHECK(wait_for(busy, 1'800 * kUs));
    CHECK(machine.parks.empty());
}

TEST(what_a_busy_end_s_window_took_is_not_charged_to_its_account) {
    World world;
    Waiter busy(Strategy::busy(200 * kUs), world.counters);
    for (int i = 0; i < 100; ++i) CHECK(wait_for(busy, 10 * kMs));
    for (int i = 0; i < 20; ++i) CHECK(wait_for(busy, 300 * kUs));  // it learns
    machine.parks.clear();
    for (int i = 0; i < 100; ++i) CHECK(wait_for(busy, 300 * kUs));
    CHECK(machine.parks.empty());
}

TEST(time_that_others_had_the_cpu_is_no_time_awake_up_to_a_bound) {
    World world;
    world.wait_for(100, 30 * kUs);
    machine.yield_elsewhere = 40 * kUs;
    world.wait_for(1, kMs);
    CHECK(machine.parks.empty());
    machine.yield_elsewhere = 400 * kUs;
    world.wait_for(1, 200 * kMs);
    CHECK(machine.parks.size() == 2);  // the first until its slice was over
}

TEST(who_has_slept_in_a_wait_sleeps_on_in_it) {
    World world;
    CHECK(!wait_for(world.waiter, kForever, 60 * kS));
    CHECK(machine.yields * static_cast<std::uint64_t>(machine.yield_takes) < 120 * kUs);
}

TEST(a_busy_end_parks_at_once_on_a_loaded_machine) {
    World world;
    Waiter busy(Strategy::busy(2 * kMs), world.counters);
    machine.yield_elsewhere = 4 * kMs;
    CHECK(wait_for(busy, 10 * kMs));
    CHECK(World::share([&] {
              for (int i = 0; i < 9; ++i) CHECK(wait_for(busy, 10 * kMs));
          }) < 0.001);
    CHECK(machine.parks.size() == 10);
}

TEST(an_idle_end_wakes_up_less_than_twice_a_second) {
    for (const Strategy& strategy : {Strategy::adaptive_default(), Strategy::park(), Strategy::busy(2 * kMs)}) {
        World world;
        Waiter waiter(strategy, world.counters);
        CHECK(World::share([&] { CHECK(!wait_for(waiter, kForever, 60 * kS)); }) < 0.0005);
        CHECK(machine.parks.size() <= 102);
        CHECK(machine.parks.front() <= 90 * kMs);  // a death is seen within a second, whenever it was
        for (const std::int64_t park : machine.parks) CHECK(park <= 600 * kMs);
    }
}

TEST(an_end_that_was_idle_for_hours_is_awake_for_its_second_message) {
    World world;
    CHECK(!wait_for(world.waiter, kForever, 7'200 * kS));
    world.wait_for(1, 200 * kMs);
    world.wait_for(3, 30 * kUs);
    machine.parks.clear();
    world.wait_for(100, 30 * kUs);
    CHECK(machine.parks.empty());
}

TEST(fixed_strategies_do_what_their_names_say) {
    World world;
    Waiter spin(Strategy::spin(), world.counters);
    Waiter yield(Strategy::yield(), world.counters);
    Waiter park(Strategy::park(), world.counters);
    CHECK(wait_for(spin, 300 * kMs));
    CHECK(wait_for(yield, 300 * kMs));
    CHECK(machine.parks.empty());
    CHECK(wait_for(park, 20 * kUs));
    CHECK(machine.parks.size() == 1);
    CHECK(world.counters.rescued_wakes.load() == 0);
}
