#include "pool/hit_rate_curve.hpp"

#include <algorithm>
#include <bit>

namespace ringcast::pool {

HitRateCurve::HitRateCurve(std::uint32_t capacity, std::uint64_t window)
    : sampling_(std::clamp(std::bit_floor(std::max(capacity / kLeastSampled, 1u)), 1u, kSampling)),
      window_(static_cast<double>(window)) {
    for (const PolicyKind kind : kPolicies)
        for (const double factor : kFactors)
            caches_.emplace_back(kind, static_cast<std::uint32_t>(capacity * factor / sampling_ + 0.5), true);
    counts_.reserve(kCounted);
}

void HitRateCurve::access(std::span<const Digest> chain, const std::optional<Digest>& after) {
    accesses_ += static_cast<double>(chain.size());
    std::size_t hot = 0;
    if (!after)
        while (hot < chain.size() && is_hot(chain[hot])) ++hot;
    hot_ += static_cast<double>(hot);
    sample_.clear();
    if (after) sample_.push_back(*after);
    for (const Digest& digest : chain.subspan(hot))
        if (samples(digest)) sample_.push_back(digest);
    const std::size_t before = after ? 1 : 0;
    sampled_ += static_cast<double>(sample_.size() - before);
    for (std::size_t i = 0; i < caches_.size(); ++i)
        hits_[i / kFactors.size()][i % kFactors.size()] += static_cast<double>(caches_[i].access(sample_, before));
    if (window_ != 0 && accesses_ >= window_) grow_old();
}

double HitRateCurve::hit_rate(std::size_t policy, std::size_t factor) const {
    if (accesses_ == 0) return 0;
    const double rate = sampled_ == 0 ? 0 : hits_[policy][factor] / sampled_;
    return (hot_ + rate * (accesses_ - hot_)) / accesses_;
}

// Counts an access to a first chunk, or to the child of a hot one.
bool HitRateCurve::is_hot(const Digest& digest) {
    auto found = std::ranges::find(counts_, digest, &Count::digest);
    if (found == counts_.end()) {
        if (counts_.size() < kCounted) {
            counts_.push_back(Count{digest, 1, 0});
            return false;
        }
        found = std::ranges::min_element(counts_, {}, &Count::seen);
        *found = Count{digest, found->seen + 1, found->seen};
        return false;
    }
    found->seen += 1;
    // What is asked for often moves to the front, where it is found at once.
    if (found != counts_.begin() && std::prev(found)->seen < found->seen) {
        std::iter_swap(found, std::prev(found));
        --found;
    }
    const double certain = found->seen - found->uncertain;
    return certain >= kHotAtLeast && certain >= kHotShare * accesses_;
}

void HitRateCurve::grow_old() {
    for (double* number : {&accesses_, &hot_, &sampled_}) *number /= 2;
    for (auto& row : hits_)
        for (double& hits : row) hits /= 2;
    for (Count& count : counts_) {
        count.seen /= 2;
        count.uncertain /= 2;
    }
}

}  // namespace ringcast::pool
