// Which chunks have copies in which tiers, as a pool's server knows it.
//
// Nothing of it is in shared memory: a tier knows itself what it has, and tells the next server. Of a tier on this machine
// all copies are known, and there are never more than it has room for: the one that was not used for the longest is removed
// first, and before any that it continues.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "pool/digest.hpp"
#include "pool/policy.hpp"

namespace ringcast::pool {

class TierTable {
public:
    struct Place {
        bool local = false;
        std::uint64_t slots = 0;  // of a local one
    };
    struct Removal {
        std::uint32_t tier;
        Digest key;
    };

    TierTable(std::uint32_t entries, std::span<const Place> places) {
        if (places.empty()) return;
        where_.resize(entries);
        crcs_.resize(entries);
        for (const Place& place : places) {
            if (place.local) local_ |= 1u << tiers_.size();
            tiers_.push_back({place.slots, place.local ? make_policy(PolicyKind::lru, entries) : nullptr, 0});
        }
    }

    std::uint32_t count() const noexcept { return static_cast<std::uint32_t>(tiers_.size()); }
    bool is_local(std::uint32_t tier) const noexcept { return (local_ >> tier & 1) != 0; }
    std::uint64_t slots(std::uint32_t tier) const noexcept { return tiers_[tier].slots; }
    std::uint64_t copies(std::uint32_t tier) const noexcept { return tiers_[tier].copies; }

    bool has(std::uint32_t entry, std::uint32_t tier) const noexcept { return (where(entry) >> tier & 1) != 0; }
    bool has_all(std::uint32_t entry) const noexcept { return where(entry) + 1 == 1u << tiers_.size(); }
    bool has_local(std::uint32_t entry) const noexcept { return (where(entry) & local_) != 0; }
    // The fastest tier that has it, from this one on; count() if there is none.
    std::uint32_t fastest(std::uint32_t entry, std::uint32_t from = 0) const noexcept {
        const auto left = where(entry) >> from;
        return left == 0 ? count() : from + static_cast<std::uint32_t>(std::countr_zero(static_cast<unsigned>(left)));
    }
    // Of the bytes that its copies have.
    std::uint32_t crc(std::uint32_t entry) const noexcept { return crcs_[entry]; }

    void add(std::uint32_t entry, std::uint32_t tier, const Digest& key, std::uint32_t parent, std::uint32_t crc) {
        if (has(entry, tier)) return;
        where_[entry] |= static_cast<std::uint8_t>(1 << tier);
        crcs_[entry] = crc;
        Tier& its = tiers_[tier];
        ++its.copies;
        if (its.order) its.order->admit(entry, key, parent);
    }
    // It has none there any more; of a local tier those have been dropped that continue it.
    void drop(std::uint32_t entry, std::uint32_t tier) {
        if (!has(entry, tier)) return;
        where_[entry] &= static_cast<std::uint8_t>(~(1 << tier));
        Tier& its = tiers_[tier];
        --its.copies;
        if (its.order) its.order->forget(entry, Gone::removed);
    }
    void touch(std::uint32_t entry) {
        if (!has_local(entry)) return;
        for (Tier& tier : tiers_)
            if (tier.order) tier.order->touch(entry);
    }
    // A local tier's copy that should go next, which no other continues, and for which may_go(entry); kNoEntry: none.
    template <class MayGo>
    std::uint32_t coldest(std::uint32_t tier, MayGo&& may_go) {
        std::uint32_t entry = kNoEntry;
        Policy& order = *tiers_[tier].order;
        if (order.victims({&entry, 1}, may_go) == 0) return kNoEntry;
        order.keep(entry);
        return entry;
    }

    // No chunk has any in a tier that is not of this machine.
    void clear_asked() {
        for (std::uint8_t& where : where_) where &= static_cast<std::uint8_t>(local_);
        for (Tier& tier : tiers_)
            if (!tier.order) tier.copies = 0;
    }
    // No chunk has any.
    void clear() {
        std::ranges::fill(where_, std::uint8_t{0});
        for (Tier& tier : tiers_) {
            if (tier.order) tier.order = make_policy(PolicyKind::lru, static_cast<std::uint32_t>(where_.size()));
            tier.copies = 0;
        }
        removals_.clear();
    }

    // Copies that the tier still has and nobody knows of any more.
    void remove_later(std::uint32_t tier, const Digest& key) { removals_.push_back({tier, key}); }
    std::vector<Removal> take_removals() noexcept { return std::exchange(removals_, {}); }

private:
    struct Tier {
        std::uint64_t slots;
        std::unique_ptr<Policy> order;  // of a local one
        std::uint64_t copies;
    };
    unsigned where(std::uint32_t entry) const noexcept { return where_.empty() ? 0u : where_[entry]; }

    std::vector<Tier> tiers_;
    unsigned local_ = 0;
    std::vector<std::uint8_t> where_;  // a bit for each tier
    std::vector<std::uint32_t> crcs_;
    std::vector<Removal> removals_;
};

}  // namespace ringcast::pool
