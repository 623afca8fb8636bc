#include "pool/hit_rate_meter.hpp"

#include <algorithm>
#include <cmath>

#include "platform/process.hpp"
#include "threads.hpp"

namespace ringcast::pool {

namespace {

// Digests: with four looks a second, what some percent of a CPU can go through.
constexpr std::size_t kMostNoted = 16 * 1024;
// After so many accesses, for each chunk that there is room for and at all, what was before counts half.
constexpr std::uint64_t kWindowTurnovers = 16;
constexpr std::uint64_t kLeastWindow = 1 << 16;
static_assert(HitRateCurve::kPolicies.size() == kPolicies && HitRateCurve::kFactors.size() == kCurveFactors);

}  // namespace

HitRateMeter::HitRateMeter(ServerWords<platform::Native>& words)
    : words_(words), thread_(start_without_signals([this] { run(); })) {}

void HitRateMeter::begin(std::uint32_t chunks) {
    curve_.emplace(chunks, std::max(kWindowTurnovers * chunks, kLeastWindow));
}

HitRateMeter::~HitRateMeter() {
    {
        const std::lock_guard guard(mutex_);
        ending_.store(true, std::memory_order_relaxed);
    }
    roused_.notify_one();
    thread_.join();
}

void HitRateMeter::note(std::span<const Digest> chain, const std::optional<Digest>& after) {
    // Never waited for: it may be the meter's, which is kept from the CPU while others want it.
    const std::unique_lock guard(mutex_, std::try_to_lock);
    if (!guard || noted_.digests.size() + chain.size() > kMostNoted) {
        words_.curve_lost.fetch_add(chain.size(), std::memory_order_relaxed);
        return;
    }
    noted_.accesses.push_back(
        {static_cast<std::uint32_t>(noted_.digests.size()), static_cast<std::uint32_t>(chain.size()), after});
    noted_.digests.insert(noted_.digests.end(), chain.begin(), chain.end());
}

void HitRateMeter::rouse() {
    {
        const std::unique_lock guard(mutex_, std::try_to_lock);
        if (!guard || noted_.accesses.empty()) return;
    }
    roused_.notify_one();
}

void HitRateMeter::run() {
    platform::run_only_when_idle();
    Noted now;
    for (;;) {
        {
            std::unique_lock guard(mutex_);
            roused_.wait(guard, [this] { return ending_.load(std::memory_order_relaxed) || !noted_.accesses.empty(); });
            std::swap(now, noted_);
        }
        for (const Access& access : now.accesses) {
            if (ending_.load(std::memory_order_relaxed)) return;
            curve_->access(std::span(now.digests).subspan(access.begin, access.count), access.after);
        }
        if (ending_.load(std::memory_order_relaxed)) return;
        now.digests.clear();
        now.accesses.clear();
        for (std::size_t policy = 0; policy < kPolicies; ++policy)
            for (std::size_t factor = 0; factor < kCurveFactors; ++factor)
                words_.curve[policy][factor].store(
                    static_cast<std::uint32_t>(std::lround(curve_->hit_rate(policy, factor) * 1e6)),
                    std::memory_order_relaxed);
        words_.curve_accesses.store(curve_->accesses(), std::memory_order_relaxed);
    }
}

}  // namespace ringcast::pool
