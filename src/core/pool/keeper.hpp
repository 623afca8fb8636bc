// The keeper of a pool: which entry has which block, what may go for what is to come, and what becomes of what was aborted.
//
// One thread of the server, and the only one in the world that stores into entries, records and cells. All it knows beside
// them (free blocks, children, reservations, recency) can be made anew from them, which is how a server adopts a pool.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "block_allocator.hpp"
#include "pool/file_tier.hpp"
#include "pool/groups.hpp"
#include "pool/memory.hpp"
#include "pool/policy.hpp"
#include "pool/tier_table.hpp"

namespace ringcast::pool {

// What is common to the keys of a store.
struct Storing {
    Owner owner;
    std::uint32_t length;     // bytes of each block
    std::uint32_t parts = 1;  // of each chunk
    std::uint64_t tenant;
    std::uint64_t space;
    std::uint32_t expected;  // keys that will need room, this one among them
};

class Keeper {
public:
    using Quotas = std::unordered_map<std::uint64_t, std::uint64_t>;  // bytes by tenant

    Keeper(PoolMemory& memory, PolicyKind policy, Quotas quotas, std::span<const TierTable::Place> tiers);

    // What happens from now on happened now, by the wall clock. Called for each request and each look.
    void read_clock() noexcept;

    // What a tier of this machine has.
    struct Content {
        std::uint32_t tier;
        std::vector<FileTier::Content> chunks;
    };
    // Of a pool that a server left: everything as its entries say, and mended where that one was killed. What the tiers have
    // and no entry knows of is removed from them.
    void adopt(std::span<const Content> contents);
    // Of a new pool: what the tiers have can be found, but for what continues something that nobody has.
    void enter(std::span<const Content> contents);

    struct Reserved {
        Status status;
        std::uint32_t entry = kNoEntry;  // also of one that is there, or pending
    };
    // `parent`: the entry of the key before; none for the first of a chain.
    Reserved reserve(const Storing& storing, const Digest& key, std::uint32_t parent);
    // Makes room, beyond what is needed now, for what is likely to come.
    void evict_ahead();

    // The whole chunk, by who reserved it (kNoPart), or the part that this client has joined.
    Status commit(const Owner& owner, std::uint32_t entry, std::uint32_t generation, std::uint32_t part,
                  const std::uint32_t* checksum);
    // Can this part be given to that request? `reserved`: yes; `pending`, `own`: another client has it, or this one by
    // another request; `committed`: it is there; `lost`: the chunk is not being stored any more.
    Status may_join(const Owner& owner, std::uint32_t entry, std::uint32_t generation, std::uint32_t part) const;
    void join(const Owner& owner, std::uint32_t entry, std::uint32_t part);
    std::uint32_t who_joined(std::uint32_t entry, std::uint32_t part) const noexcept {
        const Groups::Member* const member = groups_.member(entry, part);
        return member == nullptr ? kNoEntry : member->owner.seat;
    }
    Status abort(const Owner& owner, std::uint32_t entry, std::uint32_t generation);
    // All that request reserved or joined: nobody has heard of it.
    void undo(const Owner& owner);
    // Of a client that is gone: what it reserved, and that of which it has not committed its part.
    void abort_all_of(std::uint32_t seat);
    // Reservations that their owner, or who has joined a part and not committed it, does not hold and cannot come to know of.
    void abort_abandoned();
    void clear(const std::uint64_t* space);  // null: everything
    // Somebody found its bytes wrong. `hit`: they are right.
    Status suspect(std::uint32_t entry, std::uint32_t generation);

    // --- Tiers: keeper_tiers.cpp.
    TierTable& tiers() noexcept { return tiers_; }
    std::uint32_t entries() const noexcept { return index_.n_entries; }
    // A chunk that is only in a tier gets a block and is reserved, for who is to fill it. Its parent, if it has one, is in
    // memory. `no_memory`: it stays as it is.
    Reserved take_back(const Storing& storing, std::uint32_t entry);
    // The server's own reservation has been filled; or will not be, and goes, to the tiers if these have copies.
    void filled(std::uint32_t entry, std::uint32_t crc);
    void not_filled(std::uint32_t entry) {
        ending_ = 0;  // nobody's doing
        into_limbo_with_descendants(entry);
    }
    bool is_servers_own(std::uint32_t e) const noexcept {
        return state(e) == EntryState::reserved &&
               memory_.record(e).owner_seat.load(std::memory_order_relaxed) == kServersOwn;
    }
    // A tier's thread reads or fills its block: it goes to nobody meanwhile.
    void hold(std::uint32_t entry) noexcept { ++held_by_tiers_[entry]; }
    void let_go(std::uint32_t entry) noexcept {
        if (--held_by_tiers_[entry] == 0 && state(entry) == EntryState::limbo) new_limbo_ = true;
    }
    void copied(std::uint32_t entry, std::uint32_t tier, std::uint32_t crc);
    // What that tier has of a chunk cannot be used: it goes, and what continues it there; so do entries that are nowhere else.
    void lose_copy(std::uint32_t entry, std::uint32_t tier, EventReason reason);
    // A copy to make room in a tier of this machine; false: there is none that may go.
    bool make_room(std::uint32_t tier);
    std::uint32_t parent_of(std::uint32_t e) const noexcept { return parent(e); }
    EntryState state_of_entry(std::uint32_t e) const noexcept { return state(e); }
    // Begins to bring what `entry_of` and `reserve` of this key will look at into the cache.
    [[gnu::always_inline]] void fetch(const Digest& key) const noexcept { index_.prefetch(index_.where(key)); }
    std::uint32_t entry_of(const Digest& key) const noexcept { return index_.find(key).entry; }
    std::uint32_t length_of(std::uint32_t e) const noexcept { return length(e); }
    TierNote note_for(std::uint32_t e) const noexcept;
    // To be read only, but by who fills it.
    std::span<std::byte> bytes_of(std::uint32_t e) const noexcept {
        return {const_cast<std::byte*>(memory_.data()) + entry(e).block.load(std::memory_order_relaxed), length(e)};
    }
    std::optional<std::uint32_t> checksum_of_entry(std::uint32_t e) const noexcept {
        if (entry(e).checked.load(std::memory_order_relaxed) == 0) return std::nullopt;
        return entry(e).checksum.load(std::memory_order_relaxed);
    }

    // Was used, with `ancestors` of its ancestors.
    void touch(std::uint32_t entry, std::uint32_t ancestors);
    Digest key_of(std::uint32_t e) const noexcept { return index_.digest_of(e); }
    // A chunk that is there, and so many of its ancestors: visit(entry), the last of the chain first.
    template <class Visit>
    void for_each_of_chain(std::uint32_t e, std::uint32_t ancestors, Visit&& visit) const {
        for (; e < index_.n_entries && state(e) == EntryState::present; e = parent(e)) {
            visit(e);
            if (ancestors-- == 0) return;
        }
    }
    // Those before it, as long as visit(entry) is true.
    template <class Visit>
    void for_each_ancestor(std::uint32_t e, Visit&& visit) const {
        for (e = parent(e); e != kNoEntry; e = parent(e))
            if (!visit(e)) return;
    }
    // Gives back what nobody holds any more of what was aborted, cleared, or evicted in vain.
    void settle();
    bool has_new_limbo() const noexcept { return new_limbo_; }
    std::uint32_t generation_of_entry(std::uint32_t e) const noexcept { return generation(e); }
    // Something ended that somebody may wait for.
    bool take_changed() noexcept { return std::exchange(changed_, false); }

    // Does the client of the seat live? Asked of the kernel.
    bool seat_lives(std::uint32_t seat) const noexcept;

private:
    struct Kin {                     // intrusive lists of children
        std::uint32_t children = 0;  // in memory
        std::uint32_t leaving = 0;   // of these, in the batch that is being chosen
        std::uint32_t first_child = kNoEntry;
        std::uint32_t next = kNoEntry;
        std::uint32_t previous = kNoEntry;
    };

    struct Tenant {
        std::uint64_t quota = 0;
        std::uint64_t used = 0;
    };
    std::uint32_t tenant_of(std::uint64_t salt) const noexcept {
        const auto found = tenant_numbers_.find(salt);
        return found == tenant_numbers_.end() ? 0 : found->second;
    }

    NativeEntry& entry(std::uint32_t e) const noexcept { return index_.entries[e]; }
    std::uint32_t parent(std::uint32_t e) const noexcept {
        return entry(e).parent.load(std::memory_order_relaxed) - 1;  // 0 becomes kNoEntry
    }
    EntryState state(std::uint32_t e) const noexcept { return state_of(index_.word(e)); }
    std::uint32_t generation(std::uint32_t e) const noexcept { return generation_of(index_.word(e)); }
    std::uint64_t space_of(std::uint32_t e) const noexcept {
        return memory_.record(e).space.load(std::memory_order_relaxed);
    }
    void set(std::uint32_t e, EntryState state) noexcept { index_.set(e, generation(e), state); }
    std::uint32_t length(std::uint32_t e) const noexcept { return entry(e).length.load(std::memory_order_relaxed); }

    bool place(const Storing& storing, std::uint32_t& node, bool with_entry);
    bool has_quota(const Storing& storing);
    enum class Evicted { some, none_of_them, no_victims };
    static constexpr std::uint32_t kVictims = 64;  // in one batch: pins are collected once for all
    bool evict(std::uint32_t most, std::uint32_t tenant);
    Evicted evict_once(std::uint32_t most, std::uint32_t tenant);
    // Calls visit(entry, false) for what is pinned, and, if that is true and its client lives, visit(entry, true).
    template <class Visit>
    void for_each_pin(Visit&& visit, bool heirs = true);
    // The same, with whose it is: visit(seat, pin, lives).
    template <class Visit>
    void for_each_pin_of_seats(Visit&& visit, bool heirs);
    void note_held();
    // Which of these entries a living client holds; or its forked children, who read and commit nothing.
    void collect(std::span<const std::uint32_t> entries, std::vector<bool>& held, bool heirs = true);
    // It owns no block from here on: in a tier, or not at all.
    void give_block_back(std::uint32_t e) noexcept;
    void demote(std::uint32_t e);
    bool return_to_tier(std::uint32_t e);
    void drop_copy(std::uint32_t e, std::uint32_t tier, EventReason reason);
    void drop_copies(std::uint32_t e);
    void drop_tiered(std::uint32_t e);
    void drop_tiered_children(std::uint32_t e);
    void free_tiered(std::uint32_t e);
    bool free_an_entry();
    // Of all chunks: the tiers are being cleared. What was there only is gone.
    void forget_copies();
    // Of a namespace's, and of all chunks in the tiers that have to be asked, which are being cleared.
    void forget_copies_of(std::uint64_t space);
    void note_owner(std::uint32_t e, const Storing& storing) noexcept;
    void into_limbo(std::uint32_t e, bool noted = true);
    void into_limbo_with_descendants(std::uint32_t e);
    // The same with what is reserved, and says why.
    void give_up(std::uint32_t e, Ending why, std::uint32_t seat);
    void release(std::uint32_t e);
    void retire(std::uint32_t e);
    void adopt_child(std::uint32_t parent, std::uint32_t child) noexcept;
    void disown_child(std::uint32_t child) noexcept;
    void list_reserved(std::uint32_t e);
    void unlist_reserved(std::uint32_t e) noexcept;
    void count(std::uint64_t tenant, std::int64_t bytes);
    void admit(std::uint32_t e);
    void publish_totals() noexcept;
    struct Event {
        EventKind kind;
        EventReason reason = EventReason::none;
        EventMedium medium = kInMemory;
        Digest digest{};
        Digest parent{};
        std::uint64_t tenant = 0;
        std::uint64_t space = 0;
        std::uint32_t length = 0;
    };
    void note(const Event& what);
    void note(EventKind kind, EventReason reason, std::uint32_t e, EventMedium medium = kInMemory);
    Owner owner_of(std::uint32_t e) const noexcept;
    bool offered(const Owner& owner) const noexcept;
    std::uint32_t sum_of_block(std::uint32_t e, std::uint32_t parts) const noexcept;
    // Parts of `adopt`.
    void check_bounds();
    void check_overlaps();
    void check_parents();
    void find_members();
    void check_reservations();
    void mend_cells();
    void recount();
    void match(std::span<const Content> contents);
    void drop_unreachable();

    PoolMemory& memory_;
    Index<Native>& index_;
    BlockAllocator blocks_;
    Groups groups_;
    std::uint32_t ending_ = 0;         // of what goes into limbo now
    std::vector<std::uint32_t> node_;  // of an entry's block
    std::vector<Kin> kin_;
    std::vector<std::uint32_t> free_;
    std::vector<std::uint32_t> limbo_;
    std::vector<std::uint32_t> reserved_;
    std::vector<std::uint32_t> at_reserved_;  // an entry's place in `reserved_`, or kNoEntry
    std::vector<std::uint32_t> mark_;         // of `collect`: an entry's place among those asked for, + 1
    std::vector<std::uint32_t> held_at_;      // in which look of `note_held` an entry was last held
    std::uint32_t looks_ = 0;
    std::vector<std::uint32_t> stack_;
    std::vector<std::uint32_t> victims_;
    std::vector<bool> held_;
    std::vector<Tenant> tenants_;  // number 0: all that have no quota
    std::unordered_map<std::uint64_t, std::uint32_t> tenant_numbers_;
    std::unique_ptr<Policy> policy_;
    TierTable tiers_;
    std::vector<std::uint32_t> held_by_tiers_;  // by how many threads
    std::uint32_t taken_back_ = kNoEntry;       // which is in a tier, and stays there while room is made for it
    std::vector<std::uint32_t> unreachable_;    // of `adopt` and `enter`: in tiers, to be dropped
    std::int64_t now_ns_ = 0;
    std::uint32_t last_length_ = 0;
    std::uint64_t chunks_ = 0;
    std::uint64_t quarantined_ = 0;
    bool changed_ = false;
    bool new_limbo_ = false;
};

}  // namespace ringcast::pool
