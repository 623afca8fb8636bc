#include "pool/simulator.hpp"

#include <algorithm>
#include <bit>

namespace ringcast::pool {

// Entries are given to all of a chain before the first of them needs room, so there are twice as many.
CacheSimulator::CacheSimulator(PolicyKind kind, std::uint32_t capacity, bool leaf_first)
    : capacity_(std::max(capacity, 1u)),
      leaf_first_(leaf_first),
      policy_(make_policy(kind, 2 * capacity_)),
      places_(std::bit_ceil(std::size_t{4} * capacity_)),
      digests_(2 * capacity_),
      requested_(2 * capacity_) {
    for (std::uint32_t entry = 2 * capacity_; entry-- != 0;) spare_.push_back(entry);
}

std::size_t CacheSimulator::access(std::span<const Digest> chain, std::size_t before) {
    ++request_;
    std::size_t leading = 0;
    bool all_there = true;
    chain_.clear();
    for (const Digest& key : chain.first(std::min<std::size_t>(chain.size(), capacity_))) {
        const std::uint64_t digest = key.words[0];
        std::uint32_t entry = find(digest);
        if (entry == kNoEntry) {
            all_there = false;
            if (spare_.empty()) break;
            entry = spare_.back();
            spare_.pop_back();
            insert(digest, entry);
            requested_[entry] = 0;  // not in the policy yet
            digests_[entry] = digest;
        } else {
            if (requested_[entry] == 0 || requested_[entry] == request_) break;  // no chain goes through a chunk twice
            requested_[entry] = request_;
            leading += all_there && chain_.size() >= before ? 1 : 0;
        }
        chain_.push_back(entry);
    }
    for (std::size_t i = chain_.size(); i-- != 0;) {
        const std::uint32_t entry = chain_[i];
        if (requested_[entry] != 0) {
            if (i >= before) policy_->touch(entry);
            continue;
        }
        requested_[entry] = request_;
        while (size_ >= capacity_ && evict_one()) {
        }
        policy_->admit(entry, chain[i], leaf_first_ && i != 0 ? chain_[i - 1] : kNoEntry);
        ++size_;
    }
    return leading;
}

// False if all that could go is of this request: then there is one more for now.
bool CacheSimulator::evict_one() {
    std::uint32_t victim = kNoEntry;
    const auto may_go = [&](std::uint32_t entry) { return requested_[entry] != request_; };
    if (policy_->victims({&victim, 1}, may_go) == 0) return false;
    policy_->forget(victim, Gone::evicted);
    erase(digests_[victim]);
    spare_.push_back(victim);
    --size_;
    return true;
}

std::uint32_t CacheSimulator::find(std::uint64_t digest) const {
    std::size_t at = home_of(digest);
    while (places_[at].entry != kNoEntry && places_[at].digest != digest) at = (at + 1) & (places_.size() - 1);
    return places_[at].entry;
}

void CacheSimulator::insert(std::uint64_t digest, std::uint32_t entry) {
    std::size_t at = home_of(digest);
    while (places_[at].entry != kNoEntry) at = (at + 1) & (places_.size() - 1);
    places_[at] = Place{digest, entry};
}

// What comes behind moves up, so that no search ends too early.
void CacheSimulator::erase(std::uint64_t digest) {
    const std::size_t mask = places_.size() - 1;
    std::size_t hole = home_of(digest);
    while (places_[hole].digest != digest) hole = (hole + 1) & mask;
    for (std::size_t at = (hole + 1) & mask; places_[at].entry != kNoEntry; at = (at + 1) & mask) {
        if (((at - home_of(places_[at].digest)) & mask) < ((at - hole) & mask)) continue;
        places_[hole] = places_[at];
        hole = at;
    }
    places_[hole].entry = kNoEntry;
}

}  // namespace ringcast::pool
