// How an end's waits have ended: statistics, in the end's own part of the segment, for whoever looks.
//
// The words lie on a cache-line pair that only the end stores to, so that counting there costs what it would cost in
// memory of its own. A seat's next holder begins anew, and who looks is not to take the one's counts for the other's:
//
//     holder, once the seat is its own:  whose = 0;  fence [counts];  counts = 0;  whose = incarnation + 1 (release)
//     who looks, at an incarnation:      is it whose (acquire)?  counts;  fence [counts];  is it still?
//
// A count that was stored after the first fence makes the second look at `whose` see that it has changed; who sees the new
// one sees the zeros. So the counts of a holder that was killed can be seen until another one begins.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

namespace ringcast {

// The writer is who made the segment, and has no follower there.
inline constexpr std::uint64_t kWritersIncarnation = 0;

// Of one end, as of some moment.
struct WaitCounts {
    std::uint64_t brief;
    std::uint64_t awake;
    std::uint64_t parked;
    std::uint64_t parks;
    std::uint64_t rescued_wakes;
    std::uint64_t long_waits;
    std::uint64_t vain_ns;
    std::uint64_t wake_ns;
    std::uint64_t penalties;
};

// Written with the end's turn, but for `long_waits`; read by any thread and process. All relaxed, each for itself.
template <class P>
struct WaitCounters {
    using Count = typename P::template atomic<std::uint64_t>;

    Count whose;  // an incarnation + 1; 0: nobody's
    // Waits that ended as they should, by the way in which they did.
    Count brief;   // with the interpreter's lock
    Count awake;   // before a park
    Count parked;  // in one
    Count parks;
    Count rescued_wakes;  // parks that only the time-out ended: lost wake-ups, must stay 0
    Count long_waits;
    Count vain_ns;  // of CPU time, awake before a park or a time-out
    Count wake_ns;  // what a wake-up takes, lately; 0: none was measured
    Count penalties;

    static void add(Count& count, std::uint64_t by = 1) noexcept {
        count.store(count.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
    }

    // The new holder's, before its first wait.
    void begin(std::uint64_t incarnation) noexcept {
        whose.store(0, std::memory_order_relaxed);
        P::fence_seq_cst();  // [counts]
        store(WaitCounts{});
        whose.store(incarnation + 1, std::memory_order_release);  // release [begun]
    }
    WaitCounts load() const noexcept {
        constexpr auto kRelaxed = std::memory_order_relaxed;
        return {.brief = brief.load(kRelaxed),
                .awake = awake.load(kRelaxed),
                .parked = parked.load(kRelaxed),
                .parks = parks.load(kRelaxed),
                .rescued_wakes = rescued_wakes.load(kRelaxed),
                .long_waits = long_waits.load(kRelaxed),
                .vain_ns = vain_ns.load(kRelaxed),
                .wake_ns = wake_ns.load(kRelaxed),
                .penalties = penalties.load(kRelaxed)};
    }
    // None if they are not that holder's.
    std::optional<WaitCounts> load_of(std::uint64_t incarnation) const noexcept {
        if (whose.load(std::memory_order_acquire) != incarnation + 1) return std::nullopt;  // acquire [begun]
        const WaitCounts counts = load();
        P::fence_seq_cst();  // [counts]
        if (whose.load(std::memory_order_relaxed) != incarnation + 1) return std::nullopt;
        return counts;
    }
    void store(const WaitCounts& counts) noexcept {
        constexpr auto kRelaxed = std::memory_order_relaxed;
        brief.store(counts.brief, kRelaxed);
        awake.store(counts.awake, kRelaxed);
        parked.store(counts.parked, kRelaxed);
        parks.store(counts.parks, kRelaxed);
        rescued_wakes.store(counts.rescued_wakes, kRelaxed);
        long_waits.store(counts.long_waits, kRelaxed);
        vain_ns.store(counts.vain_ns, kRelaxed);
        wake_ns.store(counts.wake_ns, kRelaxed);
        penalties.store(counts.penalties, kRelaxed);
    }
};

}  // namespace ringcast
