// How an end waits: it spins, gives way, then parks, in proportions that its strategy sets.
//
//     spin      look again and again, with the CPU's pause; wakes fastest, uses a core
//     yield     give the core away between looks; for more ends than cores that must not sleep
//     park      sleep at once
//     adaptive  spin for about as long as waits have lately taken, if that is tens of microseconds at most, else
//     hardly;
//               then park. No spinning when the ends of this queue have fewer CPUs than there are ends
//
// A wait runs as: `begin`, `briefly` (at most 5 microseconds, so a caller may hold its interpreter's lock), then
// `slice`s without that lock until ready or until the caller's deadline, then `finish`. Between slices the caller looks
// at signals, cancellation, its deadline and the life of who is waited for.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "parking.hpp"

namespace ringcast {

inline constexpr std::int64_t kForever = INT64_MAX;
inline constexpr std::int64_t kBriefNs = 5'000;
inline constexpr std::int64_t kSliceNs = 90'000'000;  // no park is longer: signals and deaths are seen in time

struct Strategy {
    std::int64_t spin_ns;   // from the start of the wait
    std::int64_t yield_ns;  // then
    std::int64_t park_ns;   // then, at a time; 0: go on yielding (or spinning, if yield_ns is 0)
    bool adaptive;          // spin_ns is the longest wait that is worth spinning for; see above

    static constexpr Strategy spin() { return {kForever, 0, 0, false}; }
    static constexpr Strategy yield() { return {0, kForever, 0, false}; }
    static constexpr Strategy park() { return {0, 0, kSliceNs, false}; }
    static constexpr Strategy adaptive_default() { return {60'000, 0, kSliceNs, true}; }
};

// Read by any thread, for statistics.
struct WaitCounters {
    std::atomic<std::uint64_t> parks{0};
    std::atomic<std::uint64_t> rescued_wakes{0};  // parks that only the time-out ended: lost wake-ups, must stay 0
    std::atomic<std::uint64_t> long_waits{0};
};

template <class P>
class Waiter {
public:
    Waiter(const Strategy& strategy, WaitCounters& counters) : strategy_(strategy), counters_(counters) {}

    void begin() noexcept {
        started_ns_ = P::now_ns();
        spin_ns_ = strategy_.spin_ns;
        if (strategy_.adaptive) {
            // Twice the usual wait catches most messages; where that is longer than the bound, spinning is waste. But
            // two ends that answer each other and both park would measure only each other's wake-ups, and park for
            // ever: a rare long spin finds out whether the other is fast when it is not asleep.
            const std::int64_t hopeful = 2 * typical_wait_ns_ + kHopelessSpinNs;
            const bool probe = ++waits_ % kProbeEvery == 0;
            spin_ns_ = crowded_                       ? 0
                       : hopeful <= strategy_.spin_ns ? std::max(hopeful, kBriefNs)
                       : probe                        ? kProbeNs
                                                      : kHopelessSpinNs;
        }
    }
    void set_crowded(bool crowded) noexcept { crowded_ = crowded; }
    std::int64_t started_ns() const noexcept { return started_ns_; }

    template <class Ready>
    bool briefly(Ready&& ready) const noexcept {
        return spin_until(started_ns_ + std::min(spin_ns_, kBriefNs), ready);
    }

    // True as soon as `ready`; false when this slice is over, at `until_ns` at the latest.
    template <class Ready>
    bool slice(typename P::futex_word& parked, std::uint32_t token, std::int64_t until_ns, Ready&& ready) noexcept {
        const std::int64_t now = P::now_ns();
        const std::int64_t slice_end = std::min(until_ns, now + kSliceNs);
        if (spin_until(std::min(slice_end, after(started_ns_, spin_ns_)), ready)) return true;
        const std::int64_t yield_end = after(after(started_ns_, spin_ns_), strategy_.yield_ns);
        const bool never_parks = strategy_.park_ns == 0;
        for (int looks = 0;; ++looks) {
            const std::int64_t clock = P::now_ns();
            if (clock >= slice_end) return ready();
            // Even a strategy that parks at once gives way once: the other end may be waiting for this very CPU.
            if (!never_parks && clock >= yield_end && looks >= kLeastYields) break;
            P::yield();
            if (ready()) return true;
        }
        const std::int64_t left = std::min(slice_end - P::now_ns(), strategy_.park_ns);
        if (left <= 0) return ready();
        counters_.parks.fetch_add(1, std::memory_order_relaxed);
        if (ringcast::park<P>(parked, token, left, ready) == ParkResult::rescued)
            counters_.rescued_wakes.fetch_add(1, std::memory_order_relaxed);
        return ready();
    }

    void finish() noexcept {
        typical_wait_ns_ += (std::min(P::now_ns() - started_ns_, kSliceNs) - typical_wait_ns_) / 4;
    }

private:
    static constexpr int kLeastYields = 1;
    static constexpr std::int64_t kHopelessSpinNs = 2'000;
    static constexpr std::int64_t kProbeNs = 250'000;  // longer than two wake-ups
    static constexpr std::uint32_t kProbeEvery = 64;   // of waits that take 5 ms: 0.08 % of a core

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

    Strategy strategy_;
    WaitCounters& counters_;
    std::int64_t started_ns_ = 0;
    std::int64_t spin_ns_ = 0;
    std::int64_t typical_wait_ns_ = 0;
    std::uint32_t waits_ = 0;
    bool crowded_ = false;
};

}  // namespace ringcast
