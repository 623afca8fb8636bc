// The turn: one owner at a time, who knows that it is one, and nobody who waits is forgotten. Both kinds: for callers
// that nothing else serialises, and for callers under an interpreter's lock, for which a mutex stands here.
#include "turn.hpp"

#include <mutex>
#include <thread>
#include <vector>

#include "check.hpp"
#include "platform/process.hpp"

using ringcast::BasicTurn;

namespace {

constexpr std::int64_t kSlice = 50'000'000;
constexpr std::int64_t kAges = std::int64_t{600} * 1'000'000'000;

struct NoLock {
    void lock() {}
    void unlock() {}
};

// As the bindings do it: everything but `await` under the interpreter's lock, if there is one. False: out of patience.
template <class Turn, class Lock>
bool take(Turn& turn, Lock& interpreter, std::uint64_t me, std::int64_t slice, int patience = 1'000'000'000) {
    if (turn.try_take(me)) return true;
    turn.enlist();
    bool taken = false;
    for (int waits = 0; !taken && waits <= patience; ++waits) {
        const std::uint32_t seen = turn.released();
        taken = turn.try_take_enlisted(me);
        if (taken) break;
        interpreter.unlock();
        turn.await(seen, slice);
        interpreter.lock();
        turn.starve(me);
    }
    turn.delist(me);
    return taken;
}

template <class Turn, class Lock>
void exclude() {
    Turn turn;
    Lock interpreter;
    long long plain = 0;  // a thread sanitizer sees an unordered access
    const int rounds = 3000 * check::kScale;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&] {
            const std::uint64_t me = ringcast::platform::thread_id();
            for (int n = 0; n < rounds; ++n) {
                interpreter.lock();
                take(turn, interpreter, me, kSlice);
                CHECK(turn.is_mine(me));
                const long long seen = plain;
                if (n % 8 == 0) {  // the owner drops the interpreter's lock, as it does while it waits
                    interpreter.unlock();
                    std::this_thread::yield();
                    interpreter.lock();
                }
                plain = seen + 1;
                turn.give_back();
                interpreter.unlock();
            }
        });
    for (auto& thread : threads) thread.join();
    CHECK(plain == 4LL * rounds);
}

template <class Turn, class Lock>
void wake() {
    for (int n = 0; n < 200; ++n) {
        Turn turn;
        Lock interpreter;
        CHECK(turn.try_take(101));
        std::atomic<bool> waiting{false};
        std::thread waiter([&] {
            waiting = true;
            interpreter.lock();
            take(turn, interpreter, 102, kAges);
            turn.give_back();
            interpreter.unlock();
        });
        while (!waiting) std::this_thread::yield();
        if (n % 2 == 0) std::this_thread::yield();
        interpreter.lock();
        turn.give_back();
        interpreter.unlock();
        waiter.join();
    }
}

}  // namespace

TEST(a_turn_has_one_owner_who_knows_it) {
    BasicTurn<false> turn;
    CHECK(!turn.is_mine(101));
    CHECK(turn.try_take(101));
    CHECK(turn.is_mine(101));
    CHECK(!turn.is_mine(102));
    CHECK(!turn.try_take(102));
    CHECK(!turn.try_take(101));  // nested use is for the caller to report
    turn.give_back();
    CHECK(!turn.is_mine(101));
    CHECK(turn.try_take(102));
    turn.give_back();
}

TEST(threads_exclude_each_other_and_see_what_the_last_owner_did) { exclude<BasicTurn<false>, NoLock>(); }

TEST(they_do_so_too_under_an_interpreter_s_lock_with_plain_stores) { exclude<BasicTurn<true>, std::mutex>(); }

TEST(a_waiter_is_woken_when_the_turn_is_given_back_and_not_by_its_time_out) {
    wake<BasicTurn<false>, NoLock>();
    wake<BasicTurn<true>, std::mutex>();
}

TEST(a_waiter_that_starves_gets_the_turn_before_a_newcomer) {
    BasicTurn<false> turn;
    CHECK(turn.try_take(100));
    turn.enlist();
    CHECK(!turn.try_take_enlisted(200));
    turn.starve(200);
    turn.give_back();
    CHECK(!turn.try_take(100));
    CHECK(!turn.try_take_enlisted(100));
    CHECK(turn.try_take_enlisted(200));
    turn.delist(200);
    turn.give_back();
    CHECK(turn.try_take(100));
    turn.give_back();
}

TEST(a_starving_waiter_that_gives_up_leaves_the_turn_to_others) {
    BasicTurn<false> turn;
    CHECK(turn.try_take(100));
    turn.enlist();
    turn.starve(200);
    turn.give_back();
    turn.delist(200);
    CHECK(turn.try_take(100));
    turn.give_back();
    CHECK(turn.try_take(100));
}

TEST(waiters_that_give_up_and_waiters_that_stay_mix) {
    BasicTurn<false> turn;
    NoLock none;
    long long plain = 0;
    std::atomic<long long> taken{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            const std::uint64_t me = ringcast::platform::thread_id();
            for (int n = 0; n < 2000 * check::kScale; ++n) {
                if (!take(turn, none, me, 1000, t % 2 == 0 ? 0 : 1'000'000'000)) continue;
                plain += 1;
                taken.fetch_add(1);
                turn.give_back();
            }
        });
    for (auto& thread : threads) thread.join();
    CHECK(plain == taken.load());
    CHECK(turn.try_take(100));
}

TEST(a_wait_is_bounded) {
    BasicTurn<false> turn;
    NoLock none;
    CHECK(turn.try_take(100));
    CHECK(!take(turn, none, 200, 1'000'000, 1));
    turn.give_back();
}

template <class Turn>
void entrust() {
    Turn turn;
    CHECK(turn.try_take(100));
    CHECK(turn.ticket() == 0);
    turn.entrust(3);
    CHECK(turn.ticket() == 3);
    CHECK(!turn.is_mine(100));
    CHECK(!turn.try_take(100));
    CHECK(!turn.redeem(5, 200));
    CHECK(turn.redeem(3, 200));
    CHECK(turn.is_mine(200));
    CHECK(!turn.redeem(3, 200));
    turn.enlist();
    turn.starve(300);
    turn.give_back();  // to the one that starves: that is no ticket
    CHECK(turn.ticket() == 0);
    CHECK(turn.try_take_enlisted(300));
    turn.delist(300);
    turn.give_back();
}

TEST(a_ticket_has_the_turn_and_is_redeemed_once_by_any_thread) {
    entrust<BasicTurn<false>>();
    entrust<BasicTurn<true>>();
}
