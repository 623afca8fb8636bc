#include "pool/keeper.hpp"

#include <algorithm>

#include "platform/clock.hpp"
#include "pool/checksum.hpp"
#include "pool/journal.hpp"
#include "pool/mailbox.hpp"

namespace ringcast::pool {

namespace {

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

// --- Groups.

Status Keeper::may_join(const Owner& owner, std::uint32_t e, std::uint32_t its_generation, std::uint32_t part) const {
    if (e >= index_.n_entries || generation(e) != its_generation) return Status::lost;
    const EntryRecord& record = memory_.record(e);
    const std::uint32_t parts = record.parts.load(std::memory_order_relaxed);
    if (part >= parts) return Status::lost;
    if (state(e) == EntryState::present) return Status::committed;
    if (state(e) != EntryState::reserved) return Status::lost;
    if (is_servers_own(e)) return Status::lost;  // a tier fills it, and no token of a lease names it, but a forged one
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
    space == nullptr ? forget_copies() : forget_copies_of(*space);
    for (std::uint32_t e = 0; e < index_.n_entries; ++e) {
        if (state(e) != EntryState::present && state(e) != EntryState::reserved) continue;
        if (space != nullptr && space_of(e) != *space) continue;
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
    const std::uint64_t bytes = payload_bytes(length(e), record.parts.load(std::memory_order_relaxed));
    note({.kind = kind,
          .reason = reason,
          .medium = medium,
          .digest = index_.digest_of(e),
          .parent = p == kNoEntry ? Digest{} : index_.digest_of(p),
          .tenant = record.tenant.load(std::memory_order_relaxed),
          .space = record.space.load(std::memory_order_relaxed),
          .length = static_cast<std::uint32_t>(bytes)});
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
