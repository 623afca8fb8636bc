// Many readers' ends, waited for at once: which of them can be read?
//
// What can be read stays hot, and is given by each call, until it has been seen empty (armed.hpp). A call begins with a look
// at all ends; who has slept since gives the one that woke him, and leaves the others to the next call. An end that was shut
// down, whose writer has closed or died, or that was evicted can be read: reading says so.
//
// The system waits for a limited number of words. The first ends are waited for by the calling thread; each further group
// has a helper thread, which sleeps until one of its words has fired, wakes the caller, and sleeps on when told that all
// are armed again: groups in which nothing happens cost nothing. A notifier is a thread that waits as callers do and
// makes a file descriptor readable, for event loops.
//
// A mutex guards the sources; it is held for looks, and while awake for a wait, but never in a sleep. Whoever changes them
// rouses who waits first, and may be told at once that he would have to wait, for the sake of a lock that he has himself.
// What is slept on is held by a roster, which keeps the memory and the seats.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "armed.hpp"
#include "platform/event.hpp"
#include "receiver.hpp"
#include "waiting.hpp"

namespace ringcast {

class Selection {
public:
    explicit Selection(const Strategy& strategy);
    ~Selection();
    Selection(const Selection&) = delete;
    Selection& operator=(const Selection&) = delete;

    // The mutex, for one of the calls that take it. Without `waiting` it may not be had.
    using Access = std::unique_lock<std::mutex>;
    Access access(bool waiting = true);
    // `left_over`: messages that are the end's to hand out and not in the ring any more. False: it is in a selection
    // already. The seat stays its own until `remove`, also if it is closed before.
    bool add(const Access& access, void* key, const std::shared_ptr<SeatHold>& hold,
             std::shared_ptr<const std::atomic<std::uint64_t>> left_over);
    void remove(const Access& access, void* key);

    // A call is begin, briefly and slices until there is something or the time is over, finish, then collect.
    void begin() noexcept;
    bool briefly() noexcept;
    // True if there may be something; false when this slice is over, or when it was roused. Throws std::system_error if no
    // thread can be had.
    bool slice(std::int64_t until_ns);
    // Of the last slice: what is waited for, or what its caller looks at beside, may have changed.
    bool was_roused() const noexcept { return was_roused_; }
    void finish(bool ready) noexcept {
        if (!idle_) waiter_.finish(ready);  // else it teaches nothing about how long messages take
    }
    // The keys of those that can be read, each call beginning behind where the last one began.
    std::vector<void*> collect();
    std::int64_t started_ns() const noexcept { return waiter_.started_ns(); }
    WaitCounts counts() const noexcept { return counters_.load(); }
    // Ends the wait of whoever waits, and lets him look at what he waits for.
    void rouse() noexcept;

    // A descriptor that can be read while any end can, and until a `collect` has found none. Throws std::system_error.
    int descriptor(const Access& access);
    bool in_forked_child() const noexcept { return fork_generation_ != platform::fork_generation(); }

private:
    using Native = platform::Native;
    // An end, or what rouses the selection itself: then there is no hold.
    struct Source {
        void* key = nullptr;
        std::shared_ptr<SeatHold> hold;
        Parked<Native>* word = nullptr;
        std::shared_ptr<const std::atomic<std::uint64_t>> left_over;
        const std::atomic<bool>* roused = nullptr;
        std::uint64_t seated = 0;            // the seat's state for as long as it is the end's
        mutable std::uint64_t position = 0;  // of the next message, and its slot, as last seen
        mutable std::uint32_t index = 0;
        bool armed = false;
        bool writer_died = false;

        Parked<Native>& parked() const noexcept { return *word; }
        bool something() const noexcept;
        bool readable() const noexcept;
    };
    struct Roster {
        std::vector<Native::futex_word*> words;
        std::vector<std::shared_ptr<SeatHold>> holds;
    };
    struct Helper;
    struct Bed;

    // With the mutex held.
    bool look() noexcept;
    bool something() noexcept;  // the same, of the ends alone
    bool something_hot() const noexcept;
    std::vector<void*> hot_keys();
    bool waits_for_none() const noexcept { return sources_.size() == 1; }
    void look_at_lives();
    void change_rosters() noexcept;
    void refresh_rosters();
    void send_helpers_to_sleep() noexcept;

    void help(Helper& helper);
    void notify();

    std::mutex mutex_;
    std::vector<Source> sources_;  // the first one is our own
    Parked<Native> own_{};
    std::atomic<bool> roused_{false};  // relaxed: `rouse` of parking.hpp orders it
    std::shared_ptr<const Roster> roster_;
    std::vector<std::unique_ptr<Helper>> helpers_;
    bool changed_ = true;  // the rosters are to be made anew
    bool waits_ = false;   // somebody is in a slice
    bool idle_ = false;    // the last slice was without ends
    bool was_roused_ = false;
    bool is_fresh_ = false;  // a call has begun, and has not looked at all ends yet
    std::size_t first_ = 0;
    std::int64_t lives_due_ns_ = 0;

    WaitCounters<Native> counters_{};
    Waiter<Native> waiter_;
    std::uint32_t fork_generation_ = platform::fork_generation();

    std::atomic<bool> ends_{false};
    std::thread notifier_;
    std::unique_ptr<platform::Event> event_;
    bool notified_ = false;          // it can be read
    Native::futex_word goes_on_{0};  // 1: not any more, and the notifier waits again
};

}  // namespace ringcast
