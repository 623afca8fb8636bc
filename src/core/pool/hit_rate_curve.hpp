// What each policy would hit with half, once, twice and four times the memory, from a sample of the chunks.
//
// A sixteenth of the digests, which are as good as random, goes through caches of a sixteenth of each size, more of a small
// pool (C. Waldspurger, T. Saemundsson, I. Ahmad, N. Park, "Cache modeling and optimization using miniature simulations",
// ATC 2017). Leaves go first, so what is there of a chain is a beginning of it, and a sample's beginning stands for the
// whole's.
//
// A sample is wrong about chunks that are a large part of all accesses by themselves, such as the first one of a system
// prompt: it has them or not. They are counted one by one, and taken to be hit, as what is used that often always is. A
// chunk cannot be used more often than the one before it, so only children of such chunks, and first chunks, are counted.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "pool/digest.hpp"
#include "pool/simulator.hpp"

namespace ringcast::pool {

class HitRateCurve {
public:
    static constexpr std::array kPolicies{PolicyKind::lru, PolicyKind::arc, PolicyKind::s3fifo};
    static constexpr std::array kFactors{0.5, 1.0, 2.0, 4.0};

    // Of a pool with room for `capacity` chunks. After so many accesses those before count half; 0: they all count.
    HitRateCurve(std::uint32_t capacity, std::uint64_t window);
    HitRateCurve(const HitRateCurve&) = delete;
    HitRateCurve& operator=(const HitRateCurve&) = delete;

    // A chain from its first chunk on; or from behind `after`, the last sampled one of those before, which are not accessed.
    void access(std::span<const Digest> chain, const std::optional<Digest>& after = {});
    bool samples(const Digest& digest) const { return (digest.words[3] & (sampling_ - 1)) == 0; }
    // Prefix hits of all accesses to chunks, from 0 to 1, with that policy and so many times the memory.
    double hit_rate(std::size_t policy, std::size_t factor) const;
    std::uint64_t accesses() const { return static_cast<std::uint64_t>(accesses_); }

private:
    static constexpr std::uint32_t kSampling = 16;
    static constexpr std::uint32_t kLeastSampled =
        2048;                                        // chunks in the sample's cache: small pools are sampled densely
    static constexpr double kHotShare = 1.0 / 1000;  // of all accesses
    static constexpr double kHotAtLeast = 32;        // accesses
    static constexpr std::size_t kCounted = 256;

    // A. Metwally, D. Agrawal, A. El Abbadi, "Efficient computation of frequent and top-k elements in data streams", ICDT 2005.
    struct Count {
        Digest digest;
        double seen;
        double uncertain;  // what of it may be others'
    };

    bool is_hot(const Digest& digest);
    void grow_old();

    std::uint32_t sampling_;
    double window_;
    double accesses_ = 0;
    double hot_ = 0;
    double sampled_ = 0;
    std::array<std::array<double, kFactors.size()>, kPolicies.size()> hits_{};
    std::vector<CacheSimulator> caches_;
    std::vector<Count> counts_;
    std::vector<Digest> sample_;
};

}  // namespace ringcast::pool
