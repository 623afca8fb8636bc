// Chunks that are in tiers: entries that own no block, how they come to that, and how they come by a block again.
//
//   - What is in memory has its parent in memory; what is only in a tier has its parent there or in memory.
//   - An entry that gives its block back stays if a tier of this machine has a copy, else it goes and takes along what
//     continues it in tiers.
//   - A copy of which nobody knows any more is removed. To clear everything no removal is needed: it raises the tiers' era.
#include <algorithm>
#include <unordered_map>

#include "pool/keeper.hpp"

namespace ringcast::pool {

namespace {

struct DigestHash {
    std::size_t operator()(const Digest& digest) const noexcept { return static_cast<std::size_t>(digest.words[0]); }
};

}  // namespace

// --- Out of memory, and into it.

// Nobody holds it, it has no child in memory, and it can be found.
void Keeper::demote(std::uint32_t e) {
    if (const std::uint32_t p = parent(e); p != kNoEntry) --kin_[p].children;
    set(e, EntryState::tiered);  // behind [collect], which found nobody
    Native::reached(FaultPoint::pool_tiered);
    give_block_back(e);
}

// False: the key is another entry's by now, or there is no cell for it.
bool Keeper::return_to_tier(std::uint32_t e) {
    const Digest key = index_.digest_of(e);
    if (index_.find(key).entry != kNoEntry) return false;
    if (index_.cell_of(key, e) == nullptr && !index_.insert(key, e)) return false;
    demote(e);
    return true;
}

Keeper::Reserved Keeper::take_back(const Storing& storing, std::uint32_t e) {
    const std::uint32_t p = parent(e);
    if (p != kNoEntry && state(p) != EntryState::present && state(p) != EntryState::reserved) return {Status::orphan};
    if (p != kNoEntry) ++kin_[p].children;  // as it will be: it must not go for its own child
    taken_back_ = e;
    std::uint32_t node = 0;
    const bool placed = place(storing, node, false);
    taken_back_ = kNoEntry;
    if (!placed) {
        if (p != kNoEntry) --kin_[p].children;
        memory_.words().no_memory.fetch_add(1, std::memory_order_relaxed);
        return {Status::no_memory};
    }
    const std::uint32_t next_generation = generation(e) + 1;
    // Before the word: an adopter takes either for what it was.
    for (std::uint32_t child = kin_[e].first_child; child != kNoEntry; child = kin_[child].next)
        memory_.record(child).parent_generation.store(next_generation, std::memory_order_relaxed);
    note_owner(e, storing);
    index_.take_back(e, blocks_.offset(node));
    Native::reached(FaultPoint::pool_taken_back);
    node_[e] = node;
    list_reserved(e);
    count(storing.tenant, storing.length);
    publish_totals();
    return {Status::reserved, e};
}

void Keeper::filled(std::uint32_t e, std::uint32_t crc) {
    memory_.record(e).stored_at_ns.store(now_ns_, std::memory_order_relaxed);
    if (memory_.header().checksums != 0) {
        entry(e).checksum.store(crc, std::memory_order_relaxed);
        entry(e).checked.store(1, std::memory_order_relaxed);
    }
    set(e, EntryState::present);
    unlist_reserved(e);
    admit(e);
    tiers_.touch(e);
    note(EventKind::stored, EventReason::none, e);
    publish_totals();
}

// --- Copies.

TierNote Keeper::note_for(std::uint32_t e) const noexcept {
    const EntryRecord& record = memory_.record(e);
    const std::uint32_t p = parent(e);
    return {.parent = p == kNoEntry ? Digest{} : index_.digest_of(p),
            .tenant = record.tenant.load(std::memory_order_relaxed),
            .space = record.space.load(std::memory_order_relaxed),
            .parts = record.parts.load(std::memory_order_relaxed)};
}

void Keeper::copied(std::uint32_t e, std::uint32_t tier, std::uint32_t crc) {
    if (tiers_.has(e, tier)) return;
    tiers_.add(e, tier, index_.digest_of(e), parent(e), crc);
    note(EventKind::stored, EventReason::none, e, in_tier(tier));
}

void Keeper::drop_copy(std::uint32_t e, std::uint32_t tier, EventReason reason) {
    if (!tiers_.has(e, tier)) return;
    // Those that continue it first.
    std::vector<std::uint32_t> chain{e};
    for (std::size_t i = 0; tiers_.is_local(tier) && i < chain.size(); ++i)
        for (std::uint32_t child = kin_[chain[i]].first_child; child != kNoEntry; child = kin_[child].next)
            if (tiers_.has(child, tier)) chain.push_back(child);
    std::ranges::reverse(chain);
    for (const std::uint32_t one : chain) {
        tiers_.drop(one, tier);
        tiers_.remove_later(tier, index_.digest_of(one));
        note(EventKind::removed, one == e ? reason : EventReason::orphaned, one, in_tier(tier));
    }
    for (const std::uint32_t one : chain)
        if (state(one) == EntryState::tiered && !tiers_.has_local(one)) drop_tiered(one);
}

void Keeper::lose_copy(std::uint32_t e, std::uint32_t tier, EventReason reason) {
    if (tiers_.has(e, tier)) return drop_copy(e, tier, reason);
    tiers_.remove_later(tier, index_.digest_of(e));
    note(EventKind::removed, reason, e, in_tier(tier));
}

void Keeper::drop_copies(std::uint32_t e) {
    for (std::uint32_t tier = 0; tier < tiers_.count(); ++tier) {
        if (tiers_.is_local(tier))
            drop_copy(e, tier, EventReason::orphaned);
        else
            tiers_.drop(e, tier);  // it stays there, for who asks
    }
}

// It goes, and what continues it, which is in tiers only.
void Keeper::drop_tiered(std::uint32_t e) {
    std::vector<std::uint32_t> chain{e};
    for (std::size_t i = 0; i < chain.size(); ++i)
        for (std::uint32_t child = kin_[chain[i]].first_child; child != kNoEntry; child = kin_[child].next)
            chain.push_back(child);
    std::ranges::reverse(chain);
    for (const std::uint32_t one : chain) {
        for (std::uint32_t tier = 0; tier < tiers_.count(); ++tier) {
            if (!tiers_.has(one, tier)) continue;
            tiers_.drop(one, tier);
            if (!tiers_.is_local(tier)) continue;
            tiers_.remove_later(tier, index_.digest_of(one));
            note(EventKind::removed, EventReason::orphaned, one, in_tier(tier));
        }
        free_tiered(one);
    }
}

void Keeper::free_tiered(std::uint32_t e) {
    index_.remove(index_.digest_of(e), e);
    disown_child(e);
    index_.forget(e, generation(e));
    free_.push_back(e);
    changed_ = true;
}

void Keeper::drop_tiered_children(std::uint32_t e) {
    if (tiers_.count() == 0) return;
    std::vector<std::uint32_t> children;
    for (std::uint32_t child = kin_[e].first_child; child != kNoEntry; child = kin_[child].next)
        if (state(child) == EntryState::tiered) children.push_back(child);
    for (const std::uint32_t child : children) drop_tiered(child);
}

bool Keeper::make_room(std::uint32_t tier) {
    const std::uint32_t e = tiers_.coldest(tier, [&](std::uint32_t one) {
        return held_by_tiers_[one] == 0 && one != taken_back_ &&
               (state(one) == EntryState::present ||
                (state(one) == EntryState::tiered && kin_[one].first_child == kNoEntry));
    });
    if (e == kNoEntry) return false;
    drop_copy(e, tier, EventReason::evicted);
    return true;
}

bool Keeper::free_an_entry() {
    for (std::uint32_t tier = tiers_.count(); tier-- > 0;) {
        if (!tiers_.is_local(tier)) continue;
        const std::uint32_t e = tiers_.coldest(tier, [&](std::uint32_t one) {
            return state(one) == EntryState::tiered && one != taken_back_ && kin_[one].first_child == kNoEntry;
        });
        if (e == kNoEntry) continue;
        drop_tiered(e);
        return true;
    }
    return false;
}

void Keeper::forget_copies() {
    if (tiers_.count() == 0) return;
    tiers_.clear();
    for (std::uint32_t e = 0; e < index_.n_entries; ++e) {
        if (state(e) != EntryState::tiered) continue;
        memory_.words().cleared.fetch_add(1, std::memory_order_relaxed);
        free_tiered(e);
    }
}

void Keeper::forget_copies_of(std::uint64_t space) {
    tiers_.clear_asked();
    std::vector<std::uint32_t> chain;
    for (std::uint32_t e = 0; e < index_.n_entries; ++e) {
        if (!tiers_.has_local(e) || space_of(e) != space) continue;
        // Those that continue it first; they may be another namespace's, if its keys were made to.
        chain.assign(1, e);
        for (std::size_t i = 0; i < chain.size(); ++i)
            for (std::uint32_t child = kin_[chain[i]].first_child; child != kNoEntry; child = kin_[child].next)
                if (tiers_.has_local(child)) chain.push_back(child);
        std::ranges::reverse(chain);
        for (const std::uint32_t one : chain) {
            for (std::uint32_t tier = 0; tier < tiers_.count(); ++tier) {
                if (!tiers_.has(one, tier)) continue;
                tiers_.drop(one, tier);
                tiers_.remove_later(tier, index_.digest_of(one));
                if (space_of(one) != space) note(EventKind::removed, EventReason::orphaned, one, in_tier(tier));
            }
            if (state(one) != EntryState::tiered) continue;
            if (space_of(one) == space) memory_.words().cleared.fetch_add(1, std::memory_order_relaxed);
            free_tiered(one);
        }
    }
}

// --- What tiers have when a server comes.

void Keeper::enter(std::span<const Content> contents) {
    struct Found {
        std::uint32_t entry;
        std::uint32_t tier;
        const FileTier::Content* chunk;
    };
    std::vector<Found> all;
    std::unordered_map<Digest, std::uint32_t, DigestHash> entered;
    for (const Content& content : contents) {
        for (const FileTier::Content& chunk : content.chunks) {
            std::uint32_t e = kNoEntry;
            if (const auto known = entered.find(chunk.key); known != entered.end()) {
                if (length(known->second) == chunk.length) e = known->second;
            } else if (!free_.empty() && chunk.length <= std::min<std::uint64_t>(blocks_.capacity(), UINT32_MAX) &&
                       index_.insert(chunk.key, free_.back())) {
                e = free_.back();
                free_.pop_back();
                entered[chunk.key] = e;
                index_.describe(e, chunk.key, 0, static_cast<std::uint32_t>(chunk.length), kNoEntry);
                EntryRecord& record = memory_.record(e);
                record.tenant.store(chunk.note.tenant, std::memory_order_relaxed);
                record.space.store(chunk.note.space, std::memory_order_relaxed);
                record.parts.store(chunk.note.parts, std::memory_order_relaxed);
                index_.set(e, generation(e), EntryState::tiered);
            }
            if (e == kNoEntry)
                tiers_.remove_later(content.tier, chunk.key);
            else
                all.push_back({e, content.tier, &chunk});
        }
    }
    for (const Found& found : all) {
        if (found.chunk->note.parent == Digest{} || parent(found.entry) != kNoEntry) continue;
        const auto before = entered.find(found.chunk->note.parent);
        if (before == entered.end() || before->second == found.entry) {
            unreachable_.push_back(found.entry);
            continue;
        }
        entry(found.entry).parent.store(before->second + 1, std::memory_order_relaxed);
        memory_.record(found.entry).parent_generation.store(generation(before->second), std::memory_order_relaxed);
        adopt_child(before->second, found.entry);
    }
    for (const Found& found : all)
        tiers_.add(found.entry, found.tier, found.chunk->key, parent(found.entry), found.chunk->crc);
    drop_unreachable();
}

// Of a pool that was adopted: what its entries say of tiers is true only as far as the tiers say so.
void Keeper::match(std::span<const Content> contents) {
    std::ranges::sort(unreachable_);
    std::unordered_map<Digest, std::uint32_t, DigestHash> entries;
    for (std::uint32_t e = 0; !contents.empty() && e < index_.n_entries; ++e) {
        if (state(e) == EntryState::free || state(e) == EntryState::quarantined) continue;
        if (std::ranges::binary_search(unreachable_, e)) continue;
        const auto [known, is_new] = entries.try_emplace(index_.digest_of(e), e);
        if (!is_new && state(known->second) == EntryState::limbo) known->second = e;
    }
    for (const Content& content : contents) {
        for (const FileTier::Content& chunk : content.chunks) {
            const auto known = entries.find(chunk.key);
            if (known != entries.end() && length(known->second) == chunk.length)
                tiers_.add(known->second, content.tier, chunk.key, parent(known->second), chunk.crc);
            else
                tiers_.remove_later(content.tier, chunk.key);
        }
    }
    for (std::uint32_t e = 0; e < index_.n_entries; ++e)
        if (state(e) == EntryState::tiered && !tiers_.has_local(e)) unreachable_.push_back(e);
    drop_unreachable();
}

void Keeper::drop_unreachable() {
    for (const std::uint32_t e : unreachable_)
        if (state(e) == EntryState::tiered) drop_tiered(e);  // else it went with another one
    unreachable_.clear();
}

}  // namespace ringcast::pool
