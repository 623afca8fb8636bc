// How an end waits: it looks again and again, gives way to others, then parks, in proportions that its strategy sets.
//
//     spin      look, with the CPU's pause between; wakes fastest, uses a core, and starves a peer that needs it
//     yield     give the core away between looks; for ends that must not sleep
//     park      sleep at once
//     adaptive  give way for as long as that is worth while (budget.hpp), then sleep
//     busy      the same, but for a window of each wait awake in any case
//
// A wait runs as: `begin`, `briefly` (at most 5 microseconds, so a caller may hold its interpreter's lock), then
// `slice`s without that lock until ready or until the caller's deadline, then `finish`. Between slices the caller looks
// at signals, cancellation, its deadline and the life of who is waited for.
#pragma once

#include <algorithm>
#include <cstdint>

#include "budget.hpp"
#include "parking.hpp"
#include "wait_counters.hpp"

namespace ringcast {

inline constexpr std::int64_t kForever = INT64_MAX;
// No slice is longer: signals are looked at between two, which end a park anyway, and deaths, to be seen within a second. The
// second is for an end that has slept in this wait before.
inline constexpr std::int64_t kFirstSliceNs = 90'000'000;
inline constexpr std::int64_t kSliceNs = 600'000'000;

struct Strategy {
    std::int64_t spin_ns;   // from the start of the wait
    std::int64_t yield_ns;  // then
    std::int64_t park_ns;   // then, at a time; 0: go on yielding (or spinning, if yield_ns is 0)
    bool adaptive;          // the budget sets what comes before parking, and yield_ns how long that is at least

    static constexpr Strategy spin() { return {kForever, 0, 0, false}; }
    static constexpr Strategy yield() { return {0, kForever, 0, false}; }
    static constexpr Strategy park() { return {0, 0, kSliceNs, false}; }
    static constexpr Strategy adaptive_default() { return busy(0); }
    static constexpr Strategy busy(std::int64_t window_ns) { return {0, window_ns, kSliceNs, true}; }
};
inline constexpr std::int64_t kBusyWindowNs = 2'000'000;

template <class P>
class Waiter {
public:
    using Counters = WaitCounters<P>;

    Waiter(const Strategy& strategy, Counters& counters) : strategy_(strategy), counters_(&counters) {}
    // From the next wait on.
    void count_in(Counters& counters) noexcept { counters_ = &counters; }

    void begin() noexcept {
        started_ns_ = P::now_ns();
        sliced_ = false;
        vain_ns_ = 0;
        slept_ = false;
        woken_ns_ = 0;
        if (strategy_.adaptive) budget_.begin(started_ns_, strategy_.yield_ns);
    }
    void set_excess(std::int64_t excess) noexcept { budget_.set_excess(excess); }
    std::int64_t started_ns() const noexcept { return started_ns_; }

    template <class Ready>
    bool briefly(Ready&& ready) const noexcept {
        const std::int64_t bound =
            strategy_.adaptive ? budget_.brief_ns() : std::min(strategy_.spin_ns, Budget::kBriefNs);
        return spin_until(started_ns_ + bound, ready);
    }

    // True as soon as `ready`; false when this slice is over, at `until_ns` at the latest, or when something else has woken
    // the end.
    template <class Ready>
    bool slice(Parked<P>& parked, std::uint32_t token, std::int64_t until_ns, Ready&& ready) noexcept {
        struct {
            Parked<P>& parked;
            std::uint32_t token;
            ParkResult park(std::int64_t most_ns, Ready& is_ready) noexcept {
                return ringcast::park<P>(parked, token, most_ns, is_ready);
            }
            std::int64_t woken_at() const noexcept { return parked.woken_at.load(std::memory_order_relaxed); }
        } bed{parked, token};
        return slice(bed, until_ns, ready);
    }
    // The same with another way to sleep than on one word.
    template <class Bed, class Ready>
    bool slice(Bed& bed, std::int64_t until_ns, Ready&& ready) noexcept {
        const std::int64_t slice_end = std::min(until_ns, P::now_ns() + (slept_ ? kSliceNs : kFirstSliceNs));
        sliced_ = true;
        if (strategy_.adaptive ? stay_awake(slice_end, ready) : follow(slice_end, ready)) return true;
        const std::int64_t left = std::min(slice_end - P::now_ns(), strategy_.park_ns);
        if (left <= 0) return ready();
        return sleep(bed, left, ready);
    }

    // Is it over because it was `ready`?
    void finish(bool ready) noexcept {
        const std::int64_t vain = slept_ || !ready ? vain_ns_ : 0;
        if (vain != 0) Counters::add(counters_->vain_ns, static_cast<std::uint64_t>(vain));
        if (ready) Counters::add(slept_ ? counters_->parked : sliced_ ? counters_->awake : counters_->brief);
        if (!strategy_.adaptive) return;
        if (ready && !slept_) budget_.earn();
        budget_.charge(vain);
        budget_.finish((woken_ns_ != 0 ? woken_ns_ : P::now_ns()) - started_ns_);
    }

private:
    static constexpr int kLeastYields = 1;
    static constexpr int kLooksBetween = 8;  // for each look at the clocks

    static std::int64_t after(std::int64_t start, std::int64_t span) noexcept {
        return span >= kForever - start ? kForever : start + span;
    }
    template <class Ready>
    static bool spin_until(std::int64_t end_ns, Ready& ready) noexcept {
        while (P::now_ns() < end_ns)
            for (int i = 0; i < 8; ++i) {
                if (ready()) return true;
                P::pause();
            }
        return ready();
    }

    // The phases of a fixed strategy, as far as parking or the slice's end.
    template <class Ready>
    bool follow(std::int64_t slice_end, Ready& ready) noexcept {
        const std::int64_t spin_end = after(started_ns_, strategy_.spin_ns);
        if (spin_until(std::min(slice_end, spin_end), ready)) return true;
        const std::int64_t yield_end = after(spin_end, strategy_.yield_ns);
        const bool never_parks = strategy_.park_ns == 0;
        for (int looks = 0;; ++looks) {
            const std::int64_t clock = P::now_ns();
            if (clock >= slice_end) return false;
            // Even a strategy that parks at once gives way once: the other end may be waiting for this very CPU.
            if (!never_parks && clock >= yield_end && looks >= kLeastYields) return false;
            P::yield();
            if (ready()) return true;
        }
    }

    // What the budget allows, before the first park of a wait.
    template <class Ready>
    bool stay_awake(std::int64_t slice_end, Ready& ready) noexcept {
        std::int64_t now = P::now_ns();
        if (slept_ || !budget_.may_yield(now)) return false;
        std::int64_t cpu = 0;
        for (int looks = 1;; ++looks) {
            const std::int64_t before = now;
            P::yield();
            const bool is_ready = ready();
            now = P::now_ns();
            const bool too_slow = budget_.note_yield(before, now);
            if (too_slow) Counters::add(counters_->penalties);
            if (is_ready) return true;
            if (too_slow) break;
            if (looks % kLooksBetween != 0) continue;
            if (now >= slice_end || now >= budget_.awake_at_most_until_ns() || !budget_.is_worth_while()) break;
            // To read the thread's clock is a system call, which the shortest waits are spared; the first looks are free.
            if (cpu == 0) cpu = P::thread_cpu_ns();
            if (now >= budget_.awake_until_ns() && P::thread_cpu_ns() - cpu >= budget_.awake_ns()) break;
        }
        if (cpu != 0) vain_ns_ += P::thread_cpu_ns() - cpu;
        return false;
    }

    template <class Bed, class Ready>
    bool sleep(Bed& bed, std::int64_t most_ns, Ready& ready) noexcept {
        Counters::add(counters_->parks);
        const std::int64_t asleep = P::now_ns();
        const ParkResult result = bed.park(most_ns, ready);
        if (result == ParkResult::rescued) Counters::add(counters_->rescued_wakes);
        if (result != ParkResult::ready) slept_ = true;
        if (result == ParkResult::woken) {
            const std::int64_t now = P::now_ns();
            const std::int64_t woken = bed.woken_at();
            if (woken >= asleep && woken <= now) {
                woken_ns_ = woken;
                note_price(now - woken);
            }
        }
        return ready();
    }
    void note_price(std::int64_t ns) noexcept {
        constexpr std::int64_t kMostNs = 2'000'000;
        // Bounded, since it lies where others could write.
        const auto known = static_cast<std::int64_t>(
            std::min<std::uint64_t>(counters_->wake_ns.load(std::memory_order_relaxed), kMostNs));
        const std::int64_t price = std::max<std::int64_t>(1, std::min(ns, kMostNs));
        counters_->wake_ns.store(static_cast<std::uint64_t>(known == 0 ? price : known + (price - known) / 8),
                                 std::memory_order_relaxed);
    }

    Strategy strategy_;
    Counters* counters_;
    Budget budget_;
    // Of the wait in progress.
    std::int64_t started_ns_ = 0;
    std::int64_t vain_ns_ = 0;
    std::int64_t woken_ns_ = 0;  // when it was woken last; 0: that is not known
    bool sliced_ = false;
    bool slept_ = false;
};

}  // namespace ringcast
