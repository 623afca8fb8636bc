// A cache of chunks that holds no bytes: what a policy would hit, in so much memory. For benchmarks, and for the curve.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "pool/digest.hpp"
#include "pool/policy.hpp"

namespace ringcast::pool {

class CacheSimulator {
public:
    // Room for `capacity` chunks, at least one. Without `leaf_first` a policy knows no parents and takes what it takes.
    CacheSimulator(PolicyKind kind, std::uint32_t capacity, bool leaf_first);

    // A request for a chain of chunks: how many lead that are there. All are there after it, as far as there is room: used from
    // the last to the first, which is the hottest then, and none of them is a victim meanwhile. The first `before` are only
    // what the others continue: not counted, and not used.
    std::size_t access(std::span<const Digest> chain, std::size_t before = 0);

    std::uint32_t size() const { return size_; }

private:
    struct Place {
        std::uint64_t digest;
        std::uint32_t entry = kNoEntry;
    };

    std::uint32_t find(std::uint64_t digest) const;
    void insert(std::uint64_t digest, std::uint32_t entry);
    void erase(std::uint64_t digest);
    std::size_t home_of(std::uint64_t digest) const { return digest & (places_.size() - 1); }
    bool evict_one();

    std::uint32_t capacity_;
    bool leaf_first_;
    std::uint32_t size_ = 0;
    std::uint64_t request_ = 0;
    std::unique_ptr<Policy> policy_;
    std::vector<Place> places_;             // by digest, linear probing
    std::vector<std::uint64_t> digests_;    // of entries
    std::vector<std::uint64_t> requested_;  // the last request for an entry
    std::vector<std::uint32_t> spare_;
    std::vector<std::uint32_t> chain_;
};

}  // namespace ringcast::pool
