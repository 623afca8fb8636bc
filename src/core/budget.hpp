// How long an end stays awake before it parks.
//
// A wake-up by the kernel takes tens of microseconds, so who waits for less had better stay awake. It gives way to others
// all the time, since the very peer that it waits for may need its CPU. Being awake in vain is paid from an account that
// time fills at 0.5 % of a CPU. A wait that ends awake costs nothing, and earns what the park would have cost: so an end can
// afford to be awake in a burst, though it is in vain after the burst's last message. An estimate of how long the waits really
// are, without the sleeper's own waking up, says whether it is worth while: waits of up to about 450 microseconds are stayed
// awake for.
//
// Where every CPU has other work, giving way takes as long as the others' time slices, and a sleeper that is woken gets a
// CPU sooner than one that gives way. So when such yields have taken longer than the wake-ups would have that the end was
// spared, it parks at once for a while, longer each time.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ringcast {

class Budget {
public:
    // There are so many more ends than CPUs for them.
    void set_excess(std::int64_t excess) noexcept { excess_ = std::max<std::int64_t>(0, excess); }

    // A wait begins, in which being awake for `window_ns` is free.
    void begin(std::int64_t now, std::int64_t window_ns) noexcept {
        account_ns_ = std::min(kMostNs, account_ns_ + (now - began_ns_) / kRefill);
        began_ns_ = now;
        window_ns_ = window_ns;
        const std::int64_t need = 2 * typical_ns_ + kMarginNs;
        awake_ns_ = std::max(need <= std::min(kWorthNs, account_ns_) ? need : 0, window_ns);
    }
    // For so long it may spin, and keep an interpreter's lock: waits are hardly longer, and nobody else wants the CPU.
    std::int64_t brief_ns() const noexcept {
        return typical_ns_ <= kBriefNs && excess_ == 0 && shared_yields_ == 0 ? kBriefNs : 0;
    }
    bool may_yield(std::int64_t now) const noexcept { return now >= no_yield_until_ns_; }
    // For more than a few looks?
    bool is_worth_while() const noexcept { return awake_ns_ > 0; }
    // Until when it may stay awake, if that has taken `awake_ns` of CPU time by then, and until when whatever it has taken.
    std::int64_t awake_until_ns() const noexcept { return began_ns_ + awake_ns_; }
    std::int64_t awake_at_most_until_ns() const noexcept { return awake_until_ns() + kStarvedNs; }
    std::int64_t awake_ns() const noexcept { return awake_ns_; }
    // A yield has taken so long. True if others want the CPU so much that it is better to sleep.
    [[nodiscard]] bool note_yield(std::int64_t before, std::int64_t now) noexcept {
        const std::int64_t took = now - before;
        least_yield_ns_ = std::min(least_yield_ns_, took);
        const bool another_ran = took > std::max(kSwitchNs, 4 * least_yield_ns_);
        shared_yields_ = another_ran ? kSharedYields : std::max(0, shared_yields_ - 1);
        if (took <= kSlowYieldNs * (excess_ + 1)) return false;
        patience_ns_ -= took;
        if (patience_ns_ >= 0) return false;
        patience_ns_ = 0;
        penalty_ns_ =
            now - no_yield_until_ns_ < 4 * penalty_ns_ ? std::min(2 * penalty_ns_, kMostPenaltyNs) : kPenaltyNs;
        no_yield_until_ns_ = now + penalty_ns_;
        return true;
    }
    // A wait is over that was in truth so long.
    void finish(std::int64_t wait_ns) noexcept {
        const std::int64_t wait = std::clamp<std::int64_t>(wait_ns, 0, kMostTypicalNs);
        // Like a median: a rare long wait hardly counts, and waits that have become short count at once.
        if (wait > typical_ns_)
            typical_ns_ += std::min((wait - typical_ns_) / 4, typical_ns_ / 4 + 5'000);
        else
            typical_ns_ -= (typical_ns_ - wait) / 2;
    }

    // In a wait, so much CPU time was spent awake in vain.
    void charge(std::int64_t vain_ns) noexcept {
        account_ns_ = std::max<std::int64_t>(0, account_ns_ - std::max<std::int64_t>(0, vain_ns - window_ns_));
    }
    // A wait has ended awake, and needed no park.
    void earn() noexcept {
        account_ns_ = std::min(kMostNs, account_ns_ + kParkNs);
        patience_ns_ = std::min(kMostPatienceNs, patience_ns_ + kWakeUpNs);
    }

    std::int64_t typical_ns() const noexcept { return typical_ns_; }
    std::int64_t account_ns() const noexcept { return account_ns_; }

    static constexpr std::int64_t kBriefNs = 5'000;
    static constexpr std::int64_t kMostNs = 2'000'000;   // in the account
    static constexpr std::int64_t kRefill = 200;         // of so many ns, one
    static constexpr std::int64_t kParkNs = 8'000;       // of CPU time, of who parks and who wakes together
    static constexpr std::int64_t kMarginNs = 100'000;   // about a wake-up
    static constexpr std::int64_t kWorthNs = 1'000'000;  // what takes longer is not worth it
    static constexpr std::int64_t kSwitchNs = 2'000;  // for less nobody else has run; some sandboxes take more anyway
    static constexpr int kSharedYields = 64;
    static constexpr std::int64_t kStarvedNs = 50'000'000;
    static constexpr std::int64_t kSlowYieldNs = 500'000;
    static constexpr std::int64_t kWakeUpNs = 20'000;  // what a wait is longer that ends in a park
    static constexpr std::int64_t kMostPatienceNs = 10'000'000;
    static constexpr std::int64_t kPenaltyNs = 100'000'000;
    static constexpr std::int64_t kMostPenaltyNs = 3'200'000'000;

private:
    static constexpr std::int64_t kMostTypicalNs = 200'000'000;

    std::int64_t account_ns_ = kMostNs;
    std::int64_t typical_ns_ = 0;
    std::int64_t patience_ns_ = 0;
    std::int64_t no_yield_until_ns_ = 0;
    std::int64_t penalty_ns_ = 0;
    std::int64_t excess_ = 0;
    int shared_yields_ = 0;  // before it spins again
    std::int64_t least_yield_ns_ = kSlowYieldNs;
    std::int64_t began_ns_ = 0;  // of this wait, or of the last
    std::int64_t window_ns_ = 0;
    std::int64_t awake_ns_ = 0;
};

}  // namespace ringcast
