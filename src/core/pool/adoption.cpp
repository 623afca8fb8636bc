// How a server takes over what another one left, wherever that was killed.
//
// What is in shared memory is right at each instruction, so it is read once and mended in place: each step may be done
// again, by the next adopter, if this one is killed as well. Clients look up, pin and read all the while.
#include <algorithm>
#include <numeric>

#include "pool/keeper.hpp"
#include "pool/mailbox.hpp"
#include "pool/pins.hpp"

namespace ringcast::pool {

void Keeper::adopt(std::span<const Content> contents) {
    Native::reached(FaultPoint::pool_adopt_begin);
    check_bounds();
    check_overlaps();
    Native::reached(FaultPoint::pool_adopt_bounds);
    check_parents();
    Native::reached(FaultPoint::pool_adopt_parents);
    find_members();
    check_reservations();
    Native::reached(FaultPoint::pool_adopt_reservations);
    mend_cells();
    Native::reached(FaultPoint::pool_adopt_cells);
    recount();
    match(contents);
    settle();
    note({.kind = EventKind::resync});
    publish_totals();
}

// An entry whose block cannot be is not used any more, and owns none.
void Keeper::check_bounds() {
    const std::uint64_t capacity = memory_.header().capacity;
    for (std::uint32_t e = 0; e < index_.n_entries; ++e) {
        const EntryState its = state(e);
        if (its == EntryState::free || (its == EntryState::tiered && length(e) != 0)) continue;
        if (its == EntryState::tiered) {
            set(e, EntryState::free);
            continue;
        }
        const std::uint64_t block = entry(e).block.load(std::memory_order_relaxed);
        const bool known = its == EntryState::reserved || its == EntryState::present || its == EntryState::limbo ||
                           its == EntryState::quarantined;
        if (known && length(e) != 0 && block % BlockAllocator::kUnit == 0 && block < capacity &&
            length(e) <= capacity - block &&
            (its != EntryState::reserved ||
             has_parts(length(e), memory_.record(e).parts.load(std::memory_order_relaxed))))
            continue;
        set(e, EntryState::quarantined);
        entry(e).length.store(0, std::memory_order_relaxed);
    }
}

// Of entries that claim the same bytes none is to be believed. Their blocks are given to nobody.
void Keeper::check_overlaps() {
    std::vector<std::uint32_t> owners;
    for (std::uint32_t e = 0; e < index_.n_entries; ++e)
        if (state(e) != EntryState::free && state(e) != EntryState::tiered && length(e) != 0) owners.push_back(e);
    const auto block = [&](std::uint32_t e) { return entry(e).block.load(std::memory_order_relaxed); };
    std::ranges::sort(owners, {}, block);
    std::uint64_t end = 0;
    std::uint32_t last = kNoEntry;
    for (const std::uint32_t e : owners) {
        if (last != kNoEntry && block(e) < end) {
            set(e, EntryState::quarantined);
            set(last, EntryState::quarantined);
        }
        if (block(e) + length(e) > end) {
            end = block(e) + length(e);
            last = e;
        }
    }
    // Free blocks are what lies between. A block that begins within another has no node of its own.
    for (const std::uint32_t e : owners) {
        if (const auto claimed = blocks_.claim(block(e), length(e)))
            node_[e] = claimed->node;
        else
            set(e, EntryState::quarantined);
    }
}

// Children are counted anew. What has lost its parent cannot be reached, and goes.
void Keeper::check_parents() {
    const auto stays = [&](std::uint32_t e) {
        return state(e) == EntryState::present || state(e) == EntryState::reserved;
    };
    const auto is_tiered = [&](std::uint32_t e) { return state(e) == EntryState::tiered; };
    std::vector<std::uint32_t> roots;
    for (std::uint32_t e = 0; e < index_.n_entries; ++e) {
        if (state(e) == EntryState::free || state(e) == EntryState::quarantined) continue;
        const std::uint32_t p = parent(e);
        if (p == kNoEntry) {
            roots.push_back(e);
            continue;
        }
        const std::uint32_t its = memory_.record(e).parent_generation.load(std::memory_order_relaxed);
        const bool there = p < index_.n_entries && p != e &&
                           (stays(p) || state(p) == EntryState::limbo || (is_tiered(p) && is_tiered(e))) &&
                           // Its parent may have been about to be taken back from a tier.
                           (its == generation(p) || (is_tiered(p) && its == generation(p) + 1));
        if (there) {
            adopt_child(p, e);
            continue;
        }
        entry(e).parent.store(0, std::memory_order_relaxed);
        unreachable_.push_back(e);
        if (stays(e)) set(e, EntryState::limbo);
        roots.push_back(e);
    }
    std::vector<bool> reached(index_.n_entries);
    stack_ = roots;
    while (!stack_.empty()) {
        const std::uint32_t e = stack_.back();
        stack_.pop_back();
        reached[e] = true;
        for (std::uint32_t child = kin_[e].first_child; child != kNoEntry; child = kin_[child].next) {
            if (state(e) == EntryState::limbo && stays(child)) set(child, EntryState::limbo);
            stack_.push_back(child);
        }
    }
    // Entries that are each other's ancestors no server has made.
    for (std::uint32_t e = 0; e < index_.n_entries; ++e) {
        if (reached[e]) continue;
        if (stays(e) || state(e) == EntryState::limbo) set(e, EntryState::quarantined);
        if (is_tiered(e)) {
            entry(e).parent.store(0, std::memory_order_relaxed);
            set(e, EntryState::free);
        }
    }
}

// Who has joined which part. Asked of the mailboxes first: who takes an answer pins before.
void Keeper::find_members() {
    const auto note = [&](std::uint32_t e, std::uint32_t its_generation, std::uint32_t part, const Owner& owner) {
        if (e >= index_.n_entries || state(e) != EntryState::reserved || generation(e) != its_generation) return;
        if (part >= memory_.record(e).parts.load(std::memory_order_relaxed)) return;
        if (groups_.member(e, part) == nullptr) groups_.join(e, part, owner);
    };
    const std::uint32_t n_seats = memory_.header().n_seats;
    const auto incarnation = [&](std::uint32_t seat) {
        return seat_incarnation(memory_.seat(seat).state.load(std::memory_order_relaxed));
    };
    for (std::uint32_t seat = 0; seat < n_seats; ++seat)
        for (std::uint32_t i = 0; i < kMailSlots; ++i) {
            const NativeMailSlot& slot = memory_.seat(seat).mail[i];
            const std::uint64_t word = slot.word.load(std::memory_order_acquire);
            if (mail_phase(word) != MailPhase::answered) continue;
            if (slot.kind.load(std::memory_order_relaxed) != static_cast<std::uint32_t>(Ask::join)) continue;
            struct Granted {
                std::uint32_t entry, generation;
            };
            std::vector<Granted> granted;
            const std::uint32_t count = std::min(slot.count.load(std::memory_order_relaxed), kBatch);
            for (std::uint32_t k = 0; k < count; ++k)
                if (slot.items[k].status.load(std::memory_order_relaxed) ==
                    static_cast<std::uint32_t>(Status::reserved))
                    granted.push_back({slot.items[k].entry.load(std::memory_order_relaxed),
                                       slot.items[k].generation.load(std::memory_order_relaxed)});
            const std::uint32_t part = slot.parts.load(std::memory_order_relaxed);
            Native::fence_acquire();
            if (slot.word.load(std::memory_order_relaxed) != word) continue;  // taken, so that it is pinned
            const Owner owner{.seat = seat, .incarnation = incarnation(seat), .slot = i, .request = mail_number(word)};
            for (const Granted& one : granted) note(one.entry, one.generation, part, owner);
        }
    const auto row = [&](std::uint32_t seat) {
        const NativePoolSeat& its = memory_.seat(seat);
        const bool counts = seat_state(its.state.load(std::memory_order_relaxed)) == PoolSeatState::taken;
        const std::uint32_t used = std::min(its.pins_used.load(std::memory_order_relaxed), memory_.header().n_pins);
        return std::pair(its.pins, counts ? used : 0);
    };
    collect_pins<Native>(n_seats, row, [&](std::uint32_t seat, std::uint64_t pin) {
        const Owner owner{.seat = seat, .incarnation = incarnation(seat), .slot = kMailSlots, .request = 0};
        note(pinned_entry(pin), pinned_generation(pin), pinned_part(pin), owner);
        return true;
    });
}

// A reservation stays if its owner lives and knows of it, or can still come to know.
void Keeper::check_reservations() {
    std::vector<std::uint32_t> doubtful;
    const auto owner_lives = [&](std::uint32_t e) {
        const std::uint32_t seat = memory_.record(e).owner_seat.load(std::memory_order_relaxed);
        return seat < memory_.header().n_seats && seat_lives(seat);
    };
    std::vector<std::uint32_t> gone;
    for (std::uint32_t e = 0; e < index_.n_entries; ++e) {
        if (state(e) != EntryState::reserved) continue;
        if (!owner_lives(e))
            gone.push_back(e);
        else if (!offered(owner_of(e)))
            doubtful.push_back(e);
    }
    collect(doubtful, held_, false);
    for (std::size_t i = 0; i < doubtful.size(); ++i)
        if (!held_[i]) gone.push_back(doubtful[i]);
    for (const std::uint32_t e : gone) {
        stack_.push_back(e);
        while (!stack_.empty()) {
            const std::uint32_t one = stack_.back();
            stack_.pop_back();
            if (state(one) == EntryState::present || state(one) == EntryState::reserved) set(one, EntryState::limbo);
            groups_.forget(one);
            for (std::uint32_t child = kin_[one].first_child; child != kNoEntry; child = kin_[child].next)
                stack_.push_back(child);
        }
    }
}

// First what is missing, then what is wrong: nothing that is there is unfindable at any time.
void Keeper::mend_cells() {
    const auto findable = [&](std::uint32_t e) {
        return e < index_.n_entries &&
               (state(e) == EntryState::present || state(e) == EntryState::reserved || state(e) == EntryState::tiered);
    };
    for (std::uint32_t e = 0; e < index_.n_entries; ++e) {
        if (!findable(e)) continue;
        const Digest key = index_.digest_of(e);
        if (index_.cell_of(key, e) != nullptr || index_.insert(key, e)) continue;
        if (state(e) == EntryState::tiered)
            unreachable_.push_back(e);
        else
            set(e, EntryState::limbo);
    }
    const std::uint64_t n_cells = std::uint64_t{index_.n_buckets} * kCellsInBucket;
    for (std::uint64_t i = 0; i < n_cells; ++i) {
        const std::uint64_t cell = index_.cells[i].load(std::memory_order_relaxed);
        if (cell == 0) continue;
        const std::uint32_t e = static_cast<std::uint32_t>(cell) - 1;
        if (!findable(e) || index_.cell_of(index_.digest_of(e), e) != &index_.cells[i])
            index_.cells[i].store(0, std::memory_order_relaxed);
    }
}

void Keeper::recount() {
    std::vector<std::uint32_t> present;
    free_.clear();
    for (std::uint32_t e = index_.n_entries; e-- > 0;) {
        switch (state(e)) {
            case EntryState::free:
                free_.push_back(e);
                continue;
            case EntryState::reserved:
                list_reserved(e);
                break;
            case EntryState::present:
                present.push_back(e);
                break;
            case EntryState::limbo:
                limbo_.push_back(e);
                break;
            case EntryState::quarantined:
                ++quarantined_;
                continue;
            case EntryState::tiered:
                continue;
        }
        count(memory_.record(e).tenant.load(std::memory_order_relaxed), length(e));
    }
    // Nobody knows how recently each was used; what was stored late is likely to be.
    std::ranges::sort(present, {},
                      [&](std::uint32_t e) { return memory_.record(e).stored_at_ns.load(std::memory_order_relaxed); });
    for (const std::uint32_t e : present) admit(e);
}

}  // namespace ringcast::pool
