#include "arena_keeper.hpp"

#include <chrono>
#include <system_error>

#include "ring.hpp"
#include "threads.hpp"

namespace ringcast {

namespace {

constexpr auto kLookEvery = std::chrono::seconds(1);
constexpr auto kPause = std::chrono::microseconds(100);  // between two pieces: whoever waits for the lock gets it

}  // namespace

ArenaKeeper::ArenaKeeper(Segment& segment) : shared_(std::make_shared<Shared>(segment)) {}

void ArenaKeeper::watch(const Locked& arena) {
    if (shared_->watched || shared_->stopped || !arena->may_become_idle()) return;
    try {
        start_without_signals([shared = shared_] { keep(shared); }).detach();
        shared_->watched = true;
    } catch (const std::system_error&) {  // no thread can be had now: the next block's memory asks again
    }
}

void ArenaKeeper::stop() noexcept {
    const std::lock_guard guard(shared_->mutex);
    shared_->stopped = true;
    shared_->stopping.notify_all();
}

void ArenaKeeper::keep(const std::shared_ptr<Shared>& shared) noexcept {
    std::unique_lock guard(shared->mutex);
    while (!shared->stopping.wait_for(guard, kLookEvery, [&] { return shared->stopped; }) &&
           give_back(*shared, guard)) {
    }
    shared->watched = false;
}

// Is there anything left that may become idle?
bool ArenaKeeper::give_back(Shared& shared, std::unique_lock<std::mutex>& guard) noexcept {
    Arena& arena = shared.arena;
    try {
        arena.reclaim(gate_of(shared.ring), Arena::Look::asking);
    } catch (const Error&) {  // the kernel does not say now who lives: the next look asks again
    }
    arena.end_window();
    while (arena.give_back_piece()) {
        guard.unlock();
        std::this_thread::sleep_for(kPause);
        guard.lock();
        if (shared.stopped) return false;
    }
    return arena.may_become_idle();
}

}  // namespace ringcast
