#include "pool.hpp"

namespace model {

using namespace ringcast::pool;

namespace {

constexpr std::uint32_t kToken = 1;

// Keys 0 and 1 are there at first, 2 and 3 come in their place, with their tags, so that a cell need not change. A chunk's
// bytes say its key; those of the first are what memory is at the start.
Digest key(std::uint32_t number) { return {{number + 1, 0, number % 2 + 1, 0}}; }
std::uint64_t content_of(std::uint32_t number) { return number < 2 ? 0 : 500 + number; }
constexpr std::uint64_t kFilled = 600;
std::uint64_t part_content(std::uint32_t part) { return 700 + part; }
constexpr std::uint64_t kOthers = 800;  // what others do with a block meanwhile

void write(World& world, std::uint64_t block, std::uint64_t bytes) {
    Policy::copy(world.block(block), &bytes, sizeof bytes);
}
std::uint64_t read(World& world, std::uint64_t block) {
    std::uint64_t bytes = 0;
    Policy::copy(&bytes, world.block(block), sizeof bytes);
    return bytes;
}

// Which of the two entries the client holds, if it lives.
std::array<bool, PoolWorld::kEntries> collect(World& world, bool asks_for_life = false) {
    PoolWorld& pool = *world.pool;
    std::array<bool, PoolWorld::kEntries> held{};
    collect_pins<Policy>(
        1, [&](std::uint32_t) { return std::pair(pool.pins.data(), pool.used.load(std::memory_order_relaxed)); },
        [&](std::uint32_t, std::uint64_t pin) {
            const std::uint32_t e = pinned_entry(pin);
            if (generation_of(pool.index.word(e)) != pinned_generation(pin)) return true;
            if (asks_for_life && !Explorer::the().is_locked(PoolWorld::kSeatLock, Site::current())) return false;
            held[e] = true;
            return true;
        });
    return held;
}

// Entry `e`, which nobody holds, becomes another key's, in the same block.
void reuse(World& world, std::uint32_t e, std::uint32_t number) {
    PoolWorld& pool = *world.pool;
    const std::uint32_t generation = generation_of(pool.index.word(e));
    pool.index.set(e, generation, EntryState::free);
    pool.index.describe(e, key(number), e, 8, kNoEntry);
    pool.index.set(e, generation + 1, EntryState::reserved);
    write(world, e, content_of(number));
    pool.stored[number] = true;
    pool.index.set(e, generation + 1, EntryState::present);
}

void set(PoolWorld& pool, std::uint32_t e, EntryState state) {
    pool.index.set(e, generation_of(pool.index.word(e)), state);
}

}  // namespace

PoolWorld::PoolWorld() {
    index.entries = entries.data();
    index.cells = cells.data();
    index.n_entries = kEntries;
    index.n_buckets = 1;  // so that every key has the first bucket, and the second, which stays empty
    Explorer& explorer = Explorer::the();
    for (std::uint32_t e = 0; e < kEntries; ++e) {
        explorer.name(&entries[e].word, "entry " + std::to_string(e) + "'s word");
        explorer.name(&entries[e].digest[0], "entry " + std::to_string(e) + "'s digest");
        explorer.name(&entries[e].parent, "entry " + std::to_string(e) + "'s parent");
        explorer.name(&pins[e], "pin " + std::to_string(e));
    }
    explorer.name(&mail, "mailbox");
    explorer.name(&used, "pins used");
}

void PoolWorld::fill() {
    for (std::uint32_t e = 0; e < kEntries; ++e) {
        for (int i = 0; i < 4; ++i) entries[e].digest[i].store(key(e).words[i], std::memory_order_relaxed);
        entries[e].block.store(e, std::memory_order_relaxed);
        entries[e].parent.store(e, std::memory_order_relaxed);  // 0: none; 1: entry 0
        entries[e].word.store(entry_word(1, EntryState::present), std::memory_order_relaxed);
        cells[e].store(std::uint64_t{e + 1} << 32 | (e + 1), std::memory_order_relaxed);
    }
}

void PoolWorld::reserve_for_group(bool joined) {
    for (int i = 0; i < 4; ++i) entries[0].digest[i].store(key(0).words[i], std::memory_order_relaxed);
    entries[0].word.store(entry_word(1, EntryState::reserved), std::memory_order_relaxed);
    cells[0].store(std::uint64_t{1} << 32 | 1, std::memory_order_relaxed);
    for (std::uint32_t m = 0; joined && m < kMembers; ++m) {
        members[m].pins[0].store(pin_word(0, 1, m), std::memory_order_relaxed);
        members[m].used.store(1, std::memory_order_relaxed);
        Explorer::the().name(&members[m].pins[0], "pin of member " + std::to_string(m));
        Explorer::the().name(&members[m].mail, "mailbox of member " + std::to_string(m));
    }
    Explorer::the().name(&committed, "committed parts");
}

void PoolWorld::start() {
    for (Member& member : members) member.row.emplace(member.pins.data(), member.used, 1);
    row.emplace(pins.data(), used, kPins);
    places.clear();
    stored = {true, true, false, false};
    told = false;
    Explorer::the().hold(kServerLock, 0);
    Explorer::the().hold(kSeatLock, 1);
    Explorer::the().hold(kSeatLock + 1, 2);
}

void evict_and_reuse(World& world) {
    PoolWorld& pool = *world.pool;
    for (const std::uint32_t e : {1u, 0u}) set(pool, e, EntryState::limbo);
    const auto held = collect(world);
    // Children before their parents, which stay with them.
    if (held[1]) {
        set(pool, 1, EntryState::present);
    } else {
        reuse(world, 1, 3);
    }
    if (held[0] || held[1])
        set(pool, 0, EntryState::present);
    else
        reuse(world, 0, 2);
}

void abort_and_reuse(World& world) {
    PoolWorld& pool = *world.pool;
    set(pool, 1, EntryState::limbo);
    for (int look = 0; look < 2; ++look) {
        if (collect(world)[1]) continue;
        reuse(world, 1, 3);
        return;
    }
}

void pin_and_read(World& world) {
    PoolWorld& pool = *world.pool;
    std::uint32_t n = 0;
    for (std::uint32_t i = 0; i < PoolWorld::kEntries; ++i) {
        const auto found = pool.index.find(key(i));
        if (found.entry == kNoEntry || state_of(found.word) != EntryState::present) break;
        pool.looks[n++] = {found.entry, found.word};
    }
    const auto pinned = pin_leading(pool.index, *pool.row, std::span<const Look>(pool.looks.data(), n), pool.places);
    for (std::uint32_t i = 0; i < pinned.count; ++i)
        Explorer::the().expect(read(world, pool.looks[i].entry) == content_of(i), "the bytes of another chunk");
    for (const ringcast::pool::Place& place : pool.places) {
        // What is viewed of a run is held for longer than the rest.
        if (place.first != place.last) {
            const Look& viewed = pool.looks[place.first];
            pool.row->move(place.at, viewed.entry, generation_of(viewed.word));
            Explorer::the().expect(read(world, viewed.entry) == content_of(place.first), "the bytes of another chunk");
        }
        pool.row->clear(place.at);
    }
}

void evict_to_a_tier_and_take_back(World& world) {
    PoolWorld& pool = *world.pool;
    for (const std::uint32_t e : {1u, 0u}) set(pool, e, EntryState::limbo);
    const auto held = collect(world);
    set(pool, 1, held[1] ? EntryState::present : EntryState::tiered);
    set(pool, 0, held[0] || held[1] ? EntryState::present : EntryState::tiered);
    if (held[0] || held[1]) return;
    write(world, 0, kOthers);
    write(world, 1, kOthers);
    pool.index.take_back(0, 1);
    write(world, 1, content_of(0));
    set(pool, 0, EntryState::present);
    pool.index.forget(1, generation_of(pool.index.word(1)));
    const std::uint32_t generation = generation_of(pool.index.word(1));
    pool.index.describe(1, key(3), 0, 8, kNoEntry);
    pool.index.set(1, generation + 1, EntryState::reserved);
    pool.stored[3] = true;
    pool.index.set(1, generation + 1, EntryState::present);
}

void pin_and_read_where_it_lies(World& world) {
    PoolWorld& pool = *world.pool;
    const auto found = pool.index.find(key(0));
    if (found.entry == kNoEntry || state_of(found.word) != EntryState::present) return;
    pool.looks[0] = {found.entry, found.word};
    const auto pinned = pin_leading(pool.index, *pool.row, std::span<const Look>(pool.looks.data(), 1), pool.places);
    if (pinned.count == 1) {
        const std::uint64_t block = pool.entries[found.entry].block.load(std::memory_order_relaxed);
        Explorer::the().expect(read(world, block) == content_of(0), "the bytes of another chunk");
    }
    for (const ringcast::pool::Place& place : pool.places) pool.row->clear(place.at);
}

void look_for_the_next_in_tiers(World& world) {
    PoolWorld& pool = *world.pool;
    const auto found = pool.index.find(key(3));
    if (found.entry == kNoEntry) return;
    pool.looks[0] = {found.entry, found.word};
    const bool there = state_of(found.word) == EntryState::present || state_of(found.word) == EntryState::tiered;
    if (there && pool.index.confirmed(std::span<const Look>(pool.looks.data(), 1)) == 1)
        Explorer::the().expect(pool.stored[3] && generation_of(found.word) == 2, "a chunk is seen that is not there");
}

void look_for_the_next(World& world) {
    PoolWorld& pool = *world.pool;
    const auto found = pool.index.find(key(2));
    if (found.entry == kNoEntry || state_of(found.word) != EntryState::present) return;
    pool.looks[0] = {found.entry, found.word};
    if (pool.index.confirmed(std::span<const Look>(pool.looks.data(), 1)) == 1)
        Explorer::the().expect(pool.stored[2] && generation_of(found.word) == 2, "a chunk is seen that is not there");
}

void reserve_and_fill(World& world, bool withdraws) {
    PoolWorld& pool = *world.pool;
    pool.request.store(1, std::memory_order_relaxed);
    ask<Policy>(pool.mail, 1);
    Policy::fence_seq_cst();  // [signal]
    ringcast::unpark<Policy>(pool.server_parked);
    const auto answered = [&] { return is_answered<Policy>(pool.mail, 1); };
    if (withdraws) {
        if (withdraw<Policy>(pool.mail, 1)) {
            Policy::fence_seq_cst();  // [signal]
            ringcast::unpark<Policy>(pool.server_parked);
            return;
        }
    } else {
        while (!answered())
            if (sleep(pool.client_parked, kToken, answered)) return;  // nobody will answer
    }
    const bool granted = pool.status.load(std::memory_order_relaxed) != 0;
    Explorer::the().expect(granted == pool.told, "an answer is read half-written");
    const std::uint32_t place = pool.row->put(0, 1);
    Policy::fence_seq_cst();  // [pin]
    const bool ours = pool.index.is_unchanged({0, entry_word(1, EntryState::reserved)});
    take<Policy>(pool.mail, 1);
    if (granted) {
        Explorer::the().expect(ours, "what was answered is not reserved");
        write(world, 0, kFilled);
        Explorer::the().expect(read(world, 0) == kFilled, "somebody else writes to the same block");
    }
    pool.row->clear(place);
}

namespace {

void free_and_fill(World& world) {
    set(*world.pool, 0, EntryState::limbo);
    if (!collect(world, true)[0]) reuse(world, 0, 2);
}

// What it reserved and nobody holds or can come to know of is taken back.
void abort_abandoned(World& world) {
    PoolWorld& pool = *world.pool;
    if (state_of(pool.index.word(0)) != EntryState::reserved) return;
    const bool lives = Explorer::the().is_locked(PoolWorld::kSeatLock, Site::current());
    if (lives && (is_offered<Policy>(pool.mail, 1) || collect(world, true)[0])) return;
    free_and_fill(world);
}

bool answer_request(World& world) {
    PoolWorld& pool = *world.pool;
    const std::uint64_t word = read_mail<Policy>(pool.mail);
    if (mail_phase(word) == MailPhase::asked) {
        Explorer::the().expect(pool.request.load(std::memory_order_relaxed) == 1, "a request is served half-written");
        const bool room = pool.index.word(0) == entry_word(0, EntryState::free);
        if (room) {
            pool.index.describe(0, key(0), 0, 8, kNoEntry);
            pool.index.set(0, 1, EntryState::reserved);
        }
        pool.status.store(room ? 1 : 0, std::memory_order_relaxed);
        pool.told = room;
        if (answer<Policy>(pool.mail, 1)) {
            Policy::fence_seq_cst();  // [signal]
            ringcast::unpark<Policy>(pool.client_parked);
            return true;
        }
    } else if (mail_phase(word) != MailPhase::withdrawn) {
        return false;
    }
    if (state_of(pool.index.word(0)) == EntryState::reserved) free_and_fill(world);
    forget<Policy>(pool.mail, 1);
    return true;
}

void serve_on(World& world) {
    PoolWorld& pool = *world.pool;
    const auto ready = [&] {
        const auto phase = mail_phase(pool.mail.load(std::memory_order_relaxed));
        return phase == MailPhase::asked || phase == MailPhase::withdrawn;
    };
    for (int requests = 0; requests < 1; ++requests) {
        while (!ready())
            if (sleep(pool.server_parked, kToken, ready)) break;
        answer_request(world);
        abort_abandoned(world);
    }
    abort_abandoned(world);
}

}  // namespace

void serve(World& world) { serve_on(world); }

namespace {

// Does a living member hold the chunk?
bool is_held_by_group(World& world) {
    PoolWorld& pool = *world.pool;
    bool held = false;
    collect_pins<Policy>(
        PoolWorld::kMembers,
        [&](std::uint32_t m) {
            PoolWorld::Member& member = pool.members[m];
            return std::pair(member.pins.data(), member.used.load(std::memory_order_relaxed));
        },
        [&](std::uint32_t m, std::uint64_t pin) {
            if (pinned_entry(pin) != 0 || pinned_generation(pin) != 1) return true;
            const bool lives = Explorer::the().is_locked(PoolWorld::kSeatLock + m, Site::current());
            held = held || lives;
            return lives;
        });
    return held;
}

void give_up_group(World& world) {
    set(*world.pool, 0, EntryState::limbo);
    if (is_held_by_group(world)) return;
    reuse(world, 0, 2);
    write(world, 1, content_of(3));
}

bool is_being_stored(const PoolWorld& pool) { return pool.index.word(0) == entry_word(1, EntryState::reserved); }

}  // namespace

void fill_part(World& world, std::uint32_t m) {
    PoolWorld::Member& member = world.pool->members[m];
    write(world, m, part_content(m));
    Explorer::the().expect(read(world, m) == part_content(m), "somebody else writes to the same part");
    ask<Policy>(member.mail, 1);
    if (!is_answered<Policy>(member.mail, 1)) return;  // it keeps its pin, as long as it lives
    take<Policy>(member.mail, 1);
    member.row->clear(0);
}

void serve_group(World& world, bool aborts) {
    PoolWorld& pool = *world.pool;
    for (std::uint32_t round = 0; round < 2; ++round) {
        for (std::uint32_t m = 0; m < PoolWorld::kMembers; ++m) {
            PoolWorld::Member& member = pool.members[m];
            if (mail_phase(read_mail<Policy>(member.mail)) != MailPhase::asked) continue;
            if (is_being_stored(pool) && complete_with(pool.committed, PoolWorld::kMembers, m))
                set(pool, 0, EntryState::present);
            answer<Policy>(member.mail, 1);
        }
        if (aborts && round == 0 && is_being_stored(pool)) give_up_group(world);
    }
    for (std::uint32_t m = 0; m < PoolWorld::kMembers; ++m) {
        if (!is_being_stored(pool) || Explorer::the().is_locked(PoolWorld::kSeatLock + m, Site::current())) continue;
        if ((missing_parts(pool.committed, PoolWorld::kMembers) & part_bit(m)) != 0) give_up_group(world);
    }
}

void read_group(World& world) {
    PoolWorld& pool = *world.pool;
    const auto found = pool.index.find(key(0));
    if (found.entry == kNoEntry || found.word != entry_word(1, EntryState::present)) return;
    for (std::uint32_t m = 0; m < PoolWorld::kMembers; ++m)
        Explorer::the().expect(read(world, m) == part_content(m), "a chunk is there before all of its parts are");
}

void join_and_fill(World& world) {
    PoolWorld& pool = *world.pool;
    PoolWorld::Member& member = pool.members[0];
    ask<Policy>(member.mail, 1);
    Policy::fence_seq_cst();  // [signal]
    ringcast::unpark<Policy>(pool.server_parked);
    const auto answered = [&] { return is_answered<Policy>(member.mail, 1); };
    while (!answered())
        if (sleep(pool.client_parked, kToken, answered)) return;  // nobody will answer
    const bool granted = member.status.load(std::memory_order_relaxed) != 0;
    if (!granted) return take<Policy>(member.mail, 1);
    const std::uint32_t place = member.row->put(0, 1, 0);
    Policy::fence_seq_cst();  // [pin]
    const bool ours = pool.index.is_unchanged({0, entry_word(1, EntryState::reserved)});
    take<Policy>(member.mail, 1);
    Explorer::the().expect(ours, "what was joined is not being stored");
    write(world, 0, part_content(0));
    Explorer::the().expect(read(world, 0) == part_content(0), "somebody else writes to the same part");
    (void)place;  // until it commits, it holds it
}

namespace {

void answer_join(World& world, bool grants) {
    PoolWorld& pool = *world.pool;
    PoolWorld::Member& member = pool.members[0];
    const auto ready = [&] { return mail_phase(member.mail.load(std::memory_order_relaxed)) == MailPhase::asked; };
    while (!ready())
        if (sleep(pool.server_parked, kToken, ready)) return;
    if (mail_phase(read_mail<Policy>(member.mail)) != MailPhase::asked) return;
    member.status.store(grants ? 1 : 0, std::memory_order_relaxed);
    if (!answer<Policy>(member.mail, 1)) return;
    Policy::fence_seq_cst();  // [signal]
    ringcast::unpark<Policy>(pool.client_parked);
}

}  // namespace

void serve_join(World& world) { answer_join(world, true); }

void adopt_group(World& world) {
    PoolWorld& pool = *world.pool;
    Explorer::the().lock(PoolWorld::kServerLock, Site::current());
    pool.server_parked.word.store(0, std::memory_order_relaxed);  // the dead one may have slept
    // The mailbox first: who takes an answer pins before.
    const bool joined = is_offered<Policy>(pool.members[0].mail, 1) || is_held_by_group(world);
    if (!joined) write(world, 0, part_content(1));  // by whom it is given to instead
    answer_join(world, joined);
}

void note_events(World& world) {
    PoolWorld& pool = *world.pool;
    for (std::uint32_t number = 0; number < 2; ++number) {
        auto& event = begin_event(pool.words, &pool.event, 1);
        for (auto& word : event) word.store(number + 1, std::memory_order_relaxed);
        end_event(pool.words);
    }
}

void read_event(World& world) {
    PoolWorld& pool = *world.pool;
    const auto n = static_cast<std::uint32_t>(events_so_far(pool.words));
    if (n == 0) return;
    const std::uint32_t first = pool.event[0].load(std::memory_order_relaxed);
    const std::uint32_t second = pool.event[1].load(std::memory_order_relaxed);
    if (first_intact_event(pool.words, 1) > n - 1) return;
    Explorer::the().expect(first == n && second == n, "an event is read that was half-written, or is another");
}

void adopt(World& world) {
    Explorer::the().lock(PoolWorld::kServerLock, Site::current());
    world.pool->server_parked.word.store(0, std::memory_order_relaxed);  // the dead one may have slept
    abort_abandoned(world);
    serve_on(world);
}

}  // namespace model
