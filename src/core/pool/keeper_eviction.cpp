// Who holds what, as pins and living seats say it, and so what may go: to make room, or since it was given up.
#include <algorithm>

#include "errors.hpp"
#include "locks.hpp"
#include "pool/keeper.hpp"
#include "pool/pins.hpp"

namespace ringcast::pool {

namespace {

// Of the capacity, what is kept free once somebody stores: an allocation then waits for no eviction.
constexpr std::uint64_t kReserveParts = 32;

}  // namespace

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
    for (const std::uint32_t e : victims_) {
        set(e, EntryState::limbo);
        fetch(index_.digest_of(e));  // for its removal
    }
    Native::reached(FaultPoint::pool_evict_begin);
    collect(victims_, held_);
    bool any = false;
    // Children come before their parents, which stay with them.
    for (std::size_t i = 0; i < victims_.size(); ++i) {
        const std::uint32_t e = victims_[i];
        held_[i] = held_[i] || kin_[e].children != 0;
        if (held_[i]) {
            held_at_[e] = looks_;
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
    // They can be seen again as they ceased to be seen, the other way round: never a child without its parent.
    for (std::size_t i = victims_.size(); i-- > 0;)
        if (held_[i]) set(victims_[i], EntryState::present);
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

}  // namespace ringcast::pool
