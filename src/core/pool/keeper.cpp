#include "pool/keeper.hpp"

#include <algorithm>

#include "errors.hpp"
#include "locks.hpp"
#include "platform/clock.hpp"
#include "pool/checksum.hpp"
#include "pool/journal.hpp"
#include "pool/mailbox.hpp"
#include "pool/pins.hpp"

namespace ringcast::pool {

namespace {

constexpr std::uint32_t kVictims = 64;  // in one batch: pins are collected once for all
// Of the capacity, what is kept free once somebody stores: an allocation then waits for no eviction.
constexpr std::uint64_t kReserveParts = 32;

void store(std::atomic<std::uint64_t> (&words)[4], const Digest& digest) {
    for (std::size_t i = 0; i < 4; ++i) words[i].store(digest.words[i], std::memory_order_relaxed);
}

}  // namespace

Keeper::Keeper(PoolMemory& memory, PolicyKind policy, Quotas quotas, std::span<const TierTable::Place> tiers)
    : memory_(memory),
      index_(memory.index()),
      blocks_(memory.header().capacity, platform::page_bytes()),
      node_(index_.n_entries),
      kin_(index_.n_entries),
      at_reserved_(index_.n_entries, kNoEntry),
      mark_(index_.n_entries),
      held_at_(index_.n_entries),
      tenants_(1 + quotas.size()),
      policy_(make_policy(policy, index_.n_entries, static_cast<std::uint32_t>(tenants_.size()))),
      tiers_(index_.n_entries, tiers),
      held_by_tiers_(index_.n_entries) {
    for (std::uint32_t tenant = 0; const auto& [salt, quota] : quotas) {
        tenants_[++tenant].quota = quota;
        tenant_numbers_[salt] = tenant;
    }
    free_.reserve(index_.n_entries);
    for (std::uint32_t e = index_.n_entries; e-- > 0;)
        if (state(e) == EntryState::free) free_.push_back(e);
}

void Keeper::read_clock() noexcept { now_ns_ = platform::coarse_wall_clock_ns(); }

// --- Reservations.

std::uint32_t Keeper::parent_of_chain(const Digest& key) const noexcept {
    const auto found = index_.find(key);
    return found.entry != kNoEntry && state_of(found.word) == EntryState::tiered ? kNoEntry : found.entry;
}

Keeper::Reserved Keeper::reserve(const Storing& storing, const Digest& key, std::uint32_t parent) {
    const auto found = index_.find(key);
    if (found.entry != kNoEntry && state_of(found.word) == EntryState::tiered) {
        if (length(found.entry) == storing.length) return take_back(storing, found.entry);
        drop_tiered(found.entry);
    } else if (found.entry != kNoEntry) {
        if (state_of(found.word) == EntryState::present) return {Status::cached, found.entry};
        const EntryRecord& record = memory_.record(found.entry);
        const bool own = record.owner_seat.load(std::memory_order_relaxed) == storing.owner.seat &&
                         record.owner_incarnation.load(std::memory_order_relaxed) == storing.owner.incarnation;
        return {own ? Status::own : Status::pending, found.entry};
    }
    if (parent != kNoEntry) ++kin_[parent].children;  // it must not go for its own child
    std::uint32_t node = 0;
    const bool placed = place(storing, node, true);
    if (parent != kNoEntry) --kin_[parent].children;
    if (!placed) {
        memory_.words().no_memory.fetch_add(1, std::memory_order_relaxed);
        return {Status::no_memory};
    }
    const std::uint32_t e = free_.back();
    const std::uint32_t next_generation = generation(e) + 1;
    index_.describe(e, key, blocks_.offset(node), storing.length, parent);
    note_owner(e, storing);
    memory_.record(e).parent_generation.store(parent == kNoEntry ? 0 : generation(parent), std::memory_order_relaxed);
    Native::reached(FaultPoint::pool_described);
    if (!index_.insert(key, e)) {
        blocks_.free(node);
        memory_.words().full_buckets.fetch_add(1, std::memory_order_relaxed);
        return {Status::no_memory};
    }
    Native::reached(FaultPoint::pool_inserted);
    index_.set(e, next_generation, EntryState::reserved);
    Native::reached(FaultPoint::pool_reserved);
    free_.pop_back();
    node_[e] = node;
    if (parent != kNoEntry) adopt_child(parent, e);
    list_reserved(e);
    count(storing.tenant, storing.length);
    publish_totals();
    return {Status::reserved, e};
}

void Keeper::note_owner(std::uint32_t e, const Storing& storing) noexcept {
    EntryRecord& record = memory_.record(e);
    record.owner_seat.store(storing.owner.seat, std::memory_order_relaxed);
    record.owner_incarnation.store(storing.owner.incarnation, std::memory_order_relaxed);
    record.slot.store(storing.owner.slot, std::memory_order_relaxed);
    record.request.store(storing.owner.request, std::memory_order_relaxed);
    record.uses.store(0, std::memory_order_relaxed);
    record.parts.store(storing.parts, std::memory_order_relaxed);
    record.committed.store(0, std::memory_order_relaxed);
    record.ended.store(0, std::memory_order_relaxed);
    record.tenant.store(storing.tenant, std::memory_order_relaxed);
    record.space.store(storing.space, std::memory_order_relaxed);
}

// A block, and a free entry for it if that is wanted.
bool Keeper::place(const Storing& storing, std::uint32_t& node, bool with_entry) {
    last_length_ = storing.length;
    if (!has_quota(storing)) return false;
    for (;;) {
        if (!with_entry || !free_.empty()) {
            if (const auto block = blocks_.allocate_exactly(storing.length)) {
                node = block->node;
                return true;
            }
            if (storing.length > blocks_.capacity()) return false;
        }
        // What is in memory and has a copy gives no entry back.
        if (with_entry && free_.empty() && free_an_entry()) continue;
        if (!evict(std::clamp(storing.expected, 1u, kVictims), kAnyTenant)) return false;
    }
}

bool Keeper::has_quota(const Storing& storing) {
    const std::uint32_t tenant = tenant_of(storing.tenant);
    if (tenant == 0) return true;
    const Tenant& its = tenants_[tenant];
    if (storing.length > its.quota) return false;
    while (its.used + storing.length > its.quota)
        if (!evict(std::clamp(storing.expected, 1u, kVictims), tenant)) return false;
    return true;
}

Status Keeper::commit(const Owner& owner, std::uint32_t e, std::uint32_t its_generation, std::uint32_t part,
                      const std::uint32_t* checksum) {
    if (e >= index_.n_entries || generation(e) != its_generation) return Status::lost;
    EntryRecord& record = memory_.record(e);
    const bool whole = part == kNoPart;
    if (whole && !owner_of(e).is_client_of(owner)) return Status::lost;
    if (state(e) == EntryState::present) return Status::committed;  // its answer was not heard
    if (state(e) != EntryState::reserved) return Status::lost;
    const std::uint32_t parts = record.parts.load(std::memory_order_relaxed);
    const Groups::Member* const member = whole ? nullptr : groups_.member(e, part);
    // Whose parts others fill commits nothing itself.
    if (whole ? parts != 1 || groups_.members(e) != nullptr : member == nullptr || !member->owner.is_client_of(owner))
        return Status::lost;
    if (parts > 1) {
        const bool there = (missing_parts(record.committed, parts) & part_bit(part)) == 0;
        if (there) return Status::committed;
        std::byte* const block = memory_.served_data() + entry(e).block.load(std::memory_order_relaxed);
        if (checksum != nullptr) put_part_sum(block, length(e), parts, part, *checksum);
        Native::reached(FaultPoint::pool_part_begin);
        if (!complete_with(record.committed, parts, part)) {
            Native::reached(FaultPoint::pool_part_committed);
            changed_ = true;
            return Status::committed;
        }
    }
    std::uint32_t sum_of_parts = 0;
    if (parts > 1 && checksum != nullptr) {
        sum_of_parts = sum_of_block(e, parts);
        checksum = &sum_of_parts;
    }
    record.stored_at_ns.store(now_ns_, std::memory_order_relaxed);
    if (checksum != nullptr) {
        entry(e).checksum.store(*checksum, std::memory_order_relaxed);
        entry(e).checked.store(1, std::memory_order_relaxed);
    }
    Native::reached(FaultPoint::pool_commit_begin);
    set(e, EntryState::present);
    Native::reached(FaultPoint::pool_committed);
    unlist_reserved(e);
    groups_.forget(e);
    admit(e);
    memory_.words().stored.fetch_add(1, std::memory_order_relaxed);
    note(EventKind::stored, EventReason::none, e);
    publish_totals();
    return Status::committed;
}

Status Keeper::abort(const Owner& owner, std::uint32_t e, std::uint32_t its_generation) {
    if (e >= index_.n_entries || generation(e) != its_generation || state(e) != EntryState::reserved)
        return Status::lost;
    if (!owner_of(e).is_client_of(owner) && !groups_.has_member(e, owner)) return Status::lost;
    give_up(e, Ending::aborted, owner.seat);
    return Status::none;
}

void Keeper::undo(const Owner& owner) {
    for (std::size_t i = reserved_.size(); i-- > 0;) {
        if (i >= reserved_.size()) continue;  // a descendant went along
        if (owner_of(reserved_[i]) == owner) give_up(reserved_[i], Ending::let_go, owner.seat);
    }
    groups_.undo(owner);
}

void Keeper::abort_all_of(std::uint32_t seat) {
    const auto is_needed = [&](std::uint32_t e) {
        const EntryRecord& record = memory_.record(e);
        if (record.owner_seat.load(std::memory_order_relaxed) == seat) return true;
        const auto* const members = groups_.members(e);
        const PartSet missing = missing_parts(record.committed, record.parts.load(std::memory_order_relaxed));
        return members != nullptr && std::ranges::any_of(*members, [&](const Groups::Member& member) {
                   return member.owner.seat == seat && (missing & part_bit(member.part)) != 0;
               });
    };
    for (std::size_t i = reserved_.size(); i-- > 0;)
        if (i < reserved_.size() && is_needed(reserved_[i])) give_up(reserved_[i], Ending::died, seat);
}

Owner Keeper::owner_of(std::uint32_t e) const noexcept {
    const EntryRecord& record = memory_.record(e);
    return {.seat = record.owner_seat.load(std::memory_order_relaxed),
            .incarnation = record.owner_incarnation.load(std::memory_order_relaxed),
            .slot = record.slot.load(std::memory_order_relaxed),
            .request = record.request.load(std::memory_order_relaxed)};
}

// Can that client still come to know of it by the answer in its mailbox?
bool Keeper::offered(const Owner& owner) const noexcept {
    if (owner.seat >= memory_.header().n_seats || owner.slot >= kMailSlots) return false;
    const NativePoolSeat& seat = memory_.seat(owner.seat);
    if (seat_incarnation(seat.state.load(std::memory_order_relaxed)) != owner.incarnation) return false;
    return is_offered<Native>(seat.mail[owner.slot].word, owner.request);
}

void Keeper::abort_abandoned() {
    if (reserved_.empty()) return;
    // The mailbox first: who takes an answer pins before it says that it has taken it.
    struct Doubt {
        std::uint32_t entry;
        std::uint32_t part;  // kNoPart: of its owner
        std::uint32_t seat;
    };
    std::vector<Doubt> doubts;
    for (const std::uint32_t e : reserved_) {
        if (is_servers_own(e)) continue;
        if (const Owner owner = owner_of(e); !offered(owner)) doubts.push_back({e, kNoPart, owner.seat});
        const auto* const members = groups_.members(e);
        if (members == nullptr) continue;
        const EntryRecord& record = memory_.record(e);
        const PartSet missing = missing_parts(record.committed, record.parts.load(std::memory_order_relaxed));
        for (const Groups::Member& member : *members)
            if ((missing & part_bit(member.part)) != 0 && !offered(member.owner))
                doubts.push_back({e, member.part, member.owner.seat});
    }
    if (doubts.empty()) return;
    std::vector<std::uint32_t>& first = mark_;  // doubt about an entry, + 1; those of one are in a row
    for (std::size_t i = doubts.size(); i-- > 0;) first[doubts[i].entry] = static_cast<std::uint32_t>(i + 1);
    for_each_pin_of_seats(
        [&](std::uint32_t seat, std::uint64_t pin, bool lives) {
            const std::uint32_t e = pinned_entry(pin);
            if (first[e] == 0) return false;
            for (std::size_t i = first[e] - 1; i < doubts.size() && doubts[i].entry == e; ++i) {
                if (doubts[i].part != pinned_part(pin) || doubts[i].seat != seat) continue;
                if (lives) doubts[i].seat = kNoEntry;  // held
                return true;
            }
            return false;
        },
        false);
    for (const Doubt& doubt : doubts) first[doubt.entry] = 0;
    for (const Doubt& doubt : doubts)
        if (doubt.seat != kNoEntry && state(doubt.entry) == EntryState::reserved)
            give_up(doubt.entry, Ending::let_go, doubt.seat);
}

// --- Groups.

Status Keeper::may_join(const Owner& owner, std::uint32_t e, std::uint32_t its_generation, std::uint32_t part) const {
    if (e >= index_.n_entries || generation(e) != its_generation) return Status::lost;
    const EntryRecord& record = memory_.record(e);
    const std::uint32_t parts = record.parts.load(std::memory_order_relaxed);
    if (part >= parts) return Status::lost;
    if (state(e) == EntryState::present) return Status::committed;
    if (state(e) != EntryState::reserved) return Status::lost;
    if ((missing_parts(record.committed, parts) & part_bit(part)) == 0) return Status::committed;
    const Groups::Member* const member = groups_.member(e, part);
    if (member == nullptr || member->owner == owner) return Status::reserved;
    return member->owner.is_client_of(owner) ? Status::own : Status::pending;
}

void Keeper::join(const Owner& owner, std::uint32_t e, std::uint32_t part) {
    if (groups_.member(e, part) == nullptr) groups_.join(e, part, owner);
    Native::reached(FaultPoint::pool_joined);
}

// Of the block as a whole, from those of its parts, which lie in it.
std::uint32_t Keeper::sum_of_block(std::uint32_t e, std::uint32_t parts) const noexcept {
    const std::byte* const block = memory_.data() + entry(e).block.load(std::memory_order_relaxed);
    const std::uint64_t bytes = part_bytes(length(e), parts);
    std::uint32_t sum = part_sum(block, length(e), parts, 0);
    for (std::uint32_t part = 1; part < parts; ++part)
        sum = joined_checksum(sum, part_sum(block, length(e), parts, part), bytes);
    return checksum_of({block + bytes * parts, length(e) - bytes * parts}, sum);
}

void Keeper::give_up(std::uint32_t e, Ending why, std::uint32_t seat) {
    const std::uint32_t incarnation = seat_incarnation(memory_.seat(seat).state.load(std::memory_order_relaxed));
    ending_ = ending_word(why, seat, incarnation);
    into_limbo_with_descendants(e);
}

void Keeper::clear(const std::uint64_t* space) {
    ending_ = ending_word(Ending::cleared, 0, 0);
    // Tiers know no namespaces.
    forget_copies(space);
    for (std::uint32_t e = 0; e < index_.n_entries; ++e) {
        if (state(e) != EntryState::present && state(e) != EntryState::reserved) continue;
        if (space != nullptr && memory_.record(e).space.load(std::memory_order_relaxed) != *space) continue;
        into_limbo(e, false);
        memory_.words().cleared.fetch_add(1, std::memory_order_relaxed);
    }
    note({.kind = EventKind::cleared, .space = space == nullptr ? 0 : *space});
    settle();
}

Status Keeper::suspect(std::uint32_t e, std::uint32_t its_generation) {
    if (e >= index_.n_entries || generation(e) != its_generation || state(e) != EntryState::present)
        return Status::miss;
    if (entry(e).checked.load(std::memory_order_relaxed) == 0) return Status::hit;
    const std::byte* bytes = memory_.data() + entry(e).block.load(std::memory_order_relaxed);
    if (checksum_of({bytes, length(e)}) == entry(e).checksum.load(std::memory_order_relaxed)) return Status::hit;
    ending_ = 0;
    drop_tiered_children(e);
    for (std::uint32_t child = kin_[e].first_child; child != kNoEntry; child = kin_[child].next)
        into_limbo_with_descendants(child);
    drop_copies(e);
    set(e, EntryState::quarantined);
    index_.remove(index_.digest_of(e), e);
    note(EventKind::removed, EventReason::damaged, e);
    --chunks_;
    ++quarantined_;
    limbo_.push_back(e);  // until nobody holds it, who holds its ancestors with it
    new_limbo_ = true;
    publish_totals();
    return Status::damaged;
}

// --- Who holds what.

bool Keeper::seat_lives(std::uint32_t seat) const noexcept {
    try {
        return memory_.locks().is_held_by_another(seat_lock(seat));
    } catch (const Error&) {  // the kernel does not say: nothing is taken from whoever may be alive
        return true;
    }
}

template <class Visit>
void Keeper::for_each_pin(Visit&& visit, bool heirs) {
    for_each_pin_of_seats([&](std::uint32_t, std::uint64_t pin, bool lives) { return visit(pinned_entry(pin), lives); },
                          heirs);
}

template <class Visit>
void Keeper::for_each_pin_of_seats(Visit&& visit, bool heirs) {
    const PoolHeader& header = memory_.header();
    std::uint32_t asked_about = kNoEntry;  // the seat whose life is known
    bool lives = false;
    const auto row = [&](std::uint32_t seat) {
        const NativePoolSeat& its = memory_.seat(seat);
        const std::uint32_t used = std::min(its.pins_used.load(std::memory_order_relaxed), header.n_pins);
        const bool counts = heirs || seat_state(its.state.load(std::memory_order_relaxed)) != PoolSeatState::inherited;
        return std::pair(its.pins, counts ? used : 0);
    };
    collect_pins<Native>(header.n_seats, row, [&](std::uint32_t seat, std::uint64_t pin) {
        const std::uint32_t e = pinned_entry(pin);
        if (e >= header.n_entries || generation(e) != pinned_generation(pin) || !visit(seat, pin, false)) return true;
        // The kernel is asked only about who holds something that is wanted.
        if (asked_about != seat) lives = seat_lives(seat);
        asked_about = seat;
        if (lives) visit(seat, pin, true);
        return lives;
    });
}

void Keeper::note_held() {
    ++looks_;
    for_each_pin([&](std::uint32_t e, bool lives) {
        if (lives) held_at_[e] = looks_;
        return true;
    });
}

void Keeper::collect(std::span<const std::uint32_t> entries, std::vector<bool>& held, bool heirs) {
    held.assign(entries.size(), false);
    if (entries.empty()) return;
    for (std::size_t i = 0; i < entries.size(); ++i) mark_[entries[i]] = static_cast<std::uint32_t>(i + 1);
    for_each_pin(
        [&](std::uint32_t e, bool lives) {
            if (lives) held[mark_[e] - 1] = true;
            return mark_[e] != 0;
        },
        heirs);
    for (const std::uint32_t e : entries) mark_[e] = 0;
    for (std::size_t i = 0; i < entries.size(); ++i)
        if (held_by_tiers_[entries[i]] != 0) held[i] = true;
}

// --- What goes.

// False: there is nothing that may go.
bool Keeper::evict(std::uint32_t most, std::uint32_t tenant) {
    // What is held now is not touched at all, so that nobody takes it for a miss in between.
    note_held();
    Evicted evicted;
    do {
        evicted = evict_once(most, tenant);
    } while (evicted == Evicted::none_of_them);
    return evicted == Evicted::some;
}

// Victims that somebody pins while they go stay, and count as held from then on: the next ones are others.
Keeper::Evicted Keeper::evict_once(std::uint32_t most, std::uint32_t tenant) {
    victims_.resize(most);
    victims_.resize(policy_->victims(
        victims_,
        [&](std::uint32_t e) {
            // Of what it does not know, reserved children among it, the policy asks.
            if (state(e) != EntryState::present || kin_[e].children != kin_[e].leaving) return false;
            if (held_at_[e] == looks_ || held_by_tiers_[e] != 0) return false;
            if (const std::uint32_t p = parent(e); p != kNoEntry) ++kin_[p].leaving;
            return true;
        },
        tenant));
    for (const std::uint32_t e : victims_)
        if (const std::uint32_t p = parent(e); p != kNoEntry) kin_[p].leaving = 0;
    if (victims_.empty()) return Evicted::no_victims;
    for (const std::uint32_t e : victims_) set(e, EntryState::limbo);
    Native::reached(FaultPoint::pool_evict_begin);
    collect(victims_, held_);
    bool any = false;
    // Children come before their parents, which stay with them.
    for (std::size_t i = 0; i < victims_.size(); ++i) {
        const std::uint32_t e = victims_[i];
        if (held_[i] || kin_[e].children != 0) {
            held_at_[e] = looks_;
            set(e, EntryState::present);
            policy_->keep(e);
            continue;
        }
        if (!tiers_.has_local(e)) index_.remove(index_.digest_of(e), e);
        policy_->forget(e, Gone::evicted);
        --chunks_;
        note(EventKind::removed, EventReason::evicted, e);
        release(e);
        memory_.words().evicted.fetch_add(1, std::memory_order_relaxed);
        any = true;
    }
    publish_totals();
    return any ? Evicted::some : Evicted::none_of_them;
}

void Keeper::evict_ahead() {
    if (last_length_ == 0) return;
    const std::uint64_t reserve = memory_.header().capacity / kReserveParts / last_length_ * last_length_;
    const auto lacking = [&]() -> std::uint64_t {
        const std::uint64_t free = blocks_.free_bytes();
        if (free < reserve) return (reserve - free + last_length_ - 1) / last_length_;
        if (tiers_.count() != 0) return 0;  // entries are those of the tiers, too
        const std::uint64_t entries = index_.n_entries / kReserveParts;
        return entries - std::min<std::uint64_t>(entries, free_.size());
    };
    for (std::uint64_t n = lacking(); n != 0; n = lacking())
        if (!evict(static_cast<std::uint32_t>(std::min<std::uint64_t>(n, kVictims)), kAnyTenant)) break;
}

// Not to be found any more, and its block is given back when nobody holds it.
void Keeper::into_limbo(std::uint32_t e, bool noted) {
    const bool was_present = state(e) == EntryState::present;
    set(e, EntryState::limbo);
    Native::reached(FaultPoint::pool_in_limbo);
    index_.remove(index_.digest_of(e), e);
    if (was_present) {
        --chunks_;
        if (noted) note(EventKind::removed, EventReason::orphaned, e);
    } else {
        unlist_reserved(e);
        groups_.forget(e);
        memory_.record(e).ended.store(ending_, std::memory_order_relaxed);
        if (memory_.record(e).owner_seat.load(std::memory_order_relaxed) != kServersOwn)
            memory_.words().aborted.fetch_add(1, std::memory_order_relaxed);
    }
    limbo_.push_back(e);
    new_limbo_ = changed_ = true;
    publish_totals();
}

void Keeper::into_limbo_with_descendants(std::uint32_t e) {
    const std::size_t bottom = stack_.size();
    stack_.push_back(e);
    while (stack_.size() > bottom) {
        const std::uint32_t one = stack_.back();
        stack_.pop_back();
        if (state(one) == EntryState::present || state(one) == EntryState::reserved) into_limbo(one);
        for (std::uint32_t child = kin_[one].first_child; child != kNoEntry; child = kin_[child].next)
            stack_.push_back(child);
    }
}

void Keeper::settle() {
    new_limbo_ = false;
    if (limbo_.empty()) return;
    std::vector<std::uint32_t> waiting;
    waiting.swap(limbo_);
    std::vector<bool> held;
    collect(waiting, held);
    for (std::size_t i = 0; i < waiting.size(); ++i)
        if (held[i]) limbo_.push_back(waiting[i]);
    // Leaves first: each that goes may make its parent one.
    std::vector<std::uint32_t> leaves;
    std::vector<std::uint32_t> parents;
    for (std::size_t i = 0; i < waiting.size(); ++i)
        if (!held[i]) (kin_[waiting[i]].children == 0 ? leaves : parents).push_back(waiting[i]);
    while (!leaves.empty()) {
        for (const std::uint32_t e : leaves) state(e) == EntryState::quarantined ? retire(e) : release(e);
        leaves.clear();
        std::erase_if(parents, [&](std::uint32_t e) {
            if (kin_[e].children != 0) return false;
            leaves.push_back(e);
            return true;
        });
    }
    limbo_.insert(limbo_.end(), parents.begin(), parents.end());
    publish_totals();
}

// Nobody holds it, and it has no child in memory. If a tier of this machine has a copy it stays as that one's.
void Keeper::release(std::uint32_t e) {
    policy_->forget(e, Gone::removed);  // unless it is known to be evicted
    if (tiers_.has_local(e) && return_to_tier(e)) return;
    drop_tiered_children(e);
    drop_copies(e);
    disown_child(e);
    Native::reached(FaultPoint::pool_release_begin);
    set(e, EntryState::free);  // behind [collect], which found nobody
    Native::reached(FaultPoint::pool_released);
    give_block_back(e);
    free_.push_back(e);
}

void Keeper::give_block_back(std::uint32_t e) noexcept {
    blocks_.free(node_[e]);
    count(memory_.record(e).tenant.load(std::memory_order_relaxed), -std::int64_t{length(e)});
}

// A quarantined entry that nobody holds, and that has no child, holds its parent no more. Its block stays its own.
void Keeper::retire(std::uint32_t e) {
    drop_tiered_children(e);
    policy_->forget(e, Gone::removed);
    disown_child(e);
}

// --- Book-keeping.

void Keeper::adopt_child(std::uint32_t parent, std::uint32_t child) noexcept {
    Kin& its = kin_[parent];
    if (state(child) != EntryState::tiered) ++its.children;
    kin_[child].next = its.first_child;
    kin_[child].previous = kNoEntry;
    if (its.first_child != kNoEntry) kin_[its.first_child].previous = child;
    its.first_child = child;
}

void Keeper::disown_child(std::uint32_t child) noexcept {
    const std::uint32_t p = parent(child);
    if (p == kNoEntry) return;
    Kin& its = kin_[child];
    if (its.previous == kNoEntry && kin_[p].first_child != child) return;  // disowned already
    if (its.previous != kNoEntry) kin_[its.previous].next = its.next;
    if (its.next != kNoEntry) kin_[its.next].previous = its.previous;
    if (kin_[p].first_child == child) kin_[p].first_child = its.next;
    its.next = its.previous = kNoEntry;
    if (state(child) != EntryState::tiered) --kin_[p].children;
}

void Keeper::list_reserved(std::uint32_t e) {
    at_reserved_[e] = static_cast<std::uint32_t>(reserved_.size());
    reserved_.push_back(e);
}

void Keeper::unlist_reserved(std::uint32_t e) noexcept {
    const std::uint32_t at = at_reserved_[e];
    if (at == kNoEntry) return;
    const std::uint32_t last = reserved_.back();
    reserved_[at] = last;
    at_reserved_[last] = at;
    reserved_.pop_back();
    at_reserved_[e] = kNoEntry;
}

void Keeper::count(std::uint64_t tenant, std::int64_t bytes) {
    tenants_[tenant_of(tenant)].used += static_cast<std::uint64_t>(bytes);
}

void Keeper::admit(std::uint32_t e) {
    ++chunks_;
    policy_->admit(e, index_.digest_of(e), parent(e),
                   tenant_of(memory_.record(e).tenant.load(std::memory_order_relaxed)));
}

void Keeper::touch(std::uint32_t e, std::uint32_t ancestors) {
    for_each_of_chain(e, ancestors, [&](std::uint32_t one) {
        policy_->touch(one);
        tiers_.touch(one);
        auto& uses = memory_.record(one).uses;
        uses.store(uses.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    });
}

void Keeper::note(EventKind kind, EventReason reason, std::uint32_t e, EventMedium medium) {
    const EntryRecord& record = memory_.record(e);
    const std::uint32_t p = parent(e);
    note({.kind = kind,
          .reason = reason,
          .medium = medium,
          .digest = index_.digest_of(e),
          .parent = p == kNoEntry ? Digest{} : index_.digest_of(p),
          .tenant = record.tenant.load(std::memory_order_relaxed),
          .space = record.space.load(std::memory_order_relaxed),
          .length = length(e)});
}

void Keeper::note(const Event& what) {
    EventRecord& event = begin_event(memory_.words(), memory_.events(), memory_.header().n_events);
    store(event.digest, what.digest);
    store(event.parent, what.parent);
    event.tenant.store(what.tenant, std::memory_order_relaxed);
    event.space.store(what.space, std::memory_order_relaxed);
    event.length.store(what.length, std::memory_order_relaxed);
    event.at_ns.store(now_ns_, std::memory_order_relaxed);
    event.what.store(event_word(what.kind, what.reason, what.medium), std::memory_order_relaxed);
    end_event(memory_.words());
    changed_ = true;
}

void Keeper::publish_totals() noexcept {
    auto& words = memory_.words();
    words.used_bytes.store(blocks_.used_bytes(), std::memory_order_relaxed);
    words.chunks.store(chunks_, std::memory_order_relaxed);
    words.reserved.store(reserved_.size(), std::memory_order_relaxed);
    words.limbo.store(limbo_.size(), std::memory_order_relaxed);
    words.quarantined.store(quarantined_, std::memory_order_relaxed);
}

}  // namespace ringcast::pool
