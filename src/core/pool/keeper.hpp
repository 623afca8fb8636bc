// The keeper of a pool: which entry has which block, what may go for what is to come, and what becomes of what was aborted.
//
// One thread of the server, and the only one in the world that stores into entries, records and cells. All it knows beside
// them (free blocks, children, reservations, recency) can be made anew from them, which is how a server adopts a pool.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "block_allocator.hpp"
#include "pool/groups.hpp"
#include "pool/memory.hpp"
#include "pool/policy.hpp"

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

    Keeper(PoolMemory& memory, PolicyKind policy, Quotas quotas);

    // What happens from now on happened now, by the wall clock. Called for each request and each look.
    void read_clock() noexcept;

    // Of a pool that a server left: everything as its entries say, and mended where that one was killed.
    void adopt();

    struct Reserved {
        Status status;
        std::uint32_t entry = kNoEntry;  // also of one that is there, or pending
    };
    // `parent`: the entry of the key before; none for the first of a chain.
    Reserved reserve(const Storing& storing, const Digest& key, std::uint32_t parent);
    std::uint32_t parent_of_chain(const Digest& key) const noexcept;  // kNoEntry: it is not there
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
    struct Kin {  // intrusive lists of children
        std::uint32_t children = 0;
        std::uint32_t leaving = 0;  // of these, in the batch that is being chosen
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
    void set(std::uint32_t e, EntryState state) noexcept { index_.set(e, generation(e), state); }
    std::uint32_t length(std::uint32_t e) const noexcept { return entry(e).length.load(std::memory_order_relaxed); }

    bool place(const Storing& storing, std::uint32_t& node);
    bool has_quota(const Storing& storing);
    enum class Evicted { some, none_of_them, no_victims };
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
        Digest digest{};
        Digest parent{};
        std::uint64_t tenant = 0;
        std::uint64_t space = 0;
        std::uint32_t length = 0;
    };
    void note(const Event& what);
    void note(EventKind kind, EventReason reason, std::uint32_t e);
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
    std::int64_t now_ns_ = 0;
    std::uint32_t last_length_ = 0;
    std::uint64_t chunks_ = 0;
    std::uint64_t quarantined_ = 0;
    bool changed_ = false;
    bool new_limbo_ = false;
};

}  // namespace ringcast::pool
