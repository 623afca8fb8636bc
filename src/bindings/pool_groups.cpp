// Groups: a lease that is exported as a token and joined by other clients, each of which reads or fills one part.
//
// What a token is, and whether it fits, is Python's (ringcast/pool/_tokens.py). Here is what it needs of a lease, and the
// lease that is made of it.
#include <nanobind/nanobind.h>

#include <algorithm>
#include <cstring>

#include "arguments.hpp"
#include "platform/clock.hpp"
#include "pool_client.hpp"
#include "py_errors.hpp"
#include "unlocked.hpp"
#include "wanted.hpp"

namespace ringcast::bindings {

using pool::Look;
using pool::Status;

namespace {

// One key's line in a token.
struct Item {
    std::uint32_t status;
    std::uint32_t entry;
    std::uint32_t generation;
};

std::string client_of_seat(const pool::Client& core, std::uint32_t seat) {
    if (seat >= core.memory().header().n_seats) return "another client";
    const pool::NativePoolSeat& its = core.memory().seat(seat);
    return "worker '" + ringcast::text_of(its.worker_id, sizeof its.worker_id) + "', pid " +
           std::to_string(its.pid.load(std::memory_order_relaxed));
}

std::vector<Item> items_of(const PoolLease& lease, bool stores) {
    std::vector<Item> items(nb::len(lease.keys), Item{static_cast<std::uint32_t>(Status::miss), pool::kNoEntry, 0});
    for (std::size_t i = 0; i < items.size(); ++i) {
        if (stores) items[i].status = static_cast<std::uint32_t>(lease.statuses[i]);
        if (i >= lease.looks.size() || lease.looks[i].entry == pool::kNoEntry) continue;
        items[i].status = static_cast<std::uint32_t>(stores ? Status::reserved : Status::hit);
        items[i].entry = lease.looks[i].entry;
        items[i].generation = pool::generation_of(lease.looks[i].word);
    }
    return items;
}

// "0, 2". By appending alone: of a text in front of a string GCC 12 suspects a copy of more bytes than there are.
std::string listed(pool::PartSet parts, std::uint32_t of) {
    std::string text;
    for (std::uint32_t i = 0; i < of; ++i) {
        if ((parts & pool::part_bit(i)) == 0) continue;
        if (!text.empty()) text += ", ";
        text += std::to_string(i);
    }
    return text;
}

[[noreturn]] void refuse_join(const PoolClient& client, const std::string& why) {
    raise("TokenError", client.context() + ": join: " + why);
}

// The key's chunk is what the token says it is: tokens may be forged, and memory be written to.
bool is_of_key(const pool::Client& core, const Look& look, const pool::Digest& key) {
    const auto& index = core.memory().index();
    if (look.entry >= index.n_entries) return false;
    // acquire [entry]
    if (index.entries[look.entry].word.load(std::memory_order_acquire) != look.word) return false;
    return pool::Index<platform::Native>::is_of(index.entries[look.entry], key);
}

// Asks for this part of so many of the lease's keys, and pins what it gets.
void ask_to_join(PoolClient& client, StoreLease& lease, std::span<const Item> items,
                 std::span<const std::uint32_t> which) {
    const auto digests = digests_of(lease.keys);
    const auto count = static_cast<std::uint32_t>(which.size());
    const std::string part = "part " + std::to_string(lease.part.number) + " of chunk ";
    Asking asking(client, lease.core, "join", count, client.timeout_ns);
    asking.slot().parts.store(lease.part.number, std::memory_order_relaxed);
    std::vector<Look> got;
    for (std::uint32_t i = 0; i < count; ++i) {
        const Item& item = items[which[i]];
        got.push_back({item.entry, pool::entry_word(item.generation, pool::EntryState::reserved)});
        asking.item(i).entry.store(item.entry, std::memory_order_relaxed);
        asking.item(i).generation.store(item.generation, std::memory_order_relaxed);
    }
    asking.ask(pool::Ask::join);
    for (std::uint32_t i = 0; i < count; ++i) {
        const Status status = asking.status(i);
        if (status == Status::reserved || status == Status::cached) continue;
        const std::uint32_t seat = asking.item(i).entry.load(std::memory_order_relaxed);
        asking.take();
        const std::string what = part + std::to_string(which[i]);
        if (status == Status::committed) refuse_join(client, what + " is committed already");
        if (status == Status::own) refuse_join(client, what + " has been joined by this client already");
        if (status == Status::pending)
            refuse_join(client, what + " has been joined by " + client_of_seat(*lease.core, seat) + " already");
        raise("LeaseExpiredError", client.context() + ": join: chunk " + std::to_string(which[i]) + " of " +
                                       std::to_string(nb::len(lease.keys)) +
                                       " is not being stored any more: " + why_given_up(*lease.core, got[i]));
    }
    std::vector<bool> pinned;
    pool::Client::Places places;
    lease.held->places.reserve(lease.held->places.size() + count);
    const bool room = lease.core->pin_each(got, places, pinned, lease.part.number);
    asking.take();
    for (const pool::Place& place : places)
        lease.held->places.push_back({place.at, which[place.first], which[place.last]});
    for (std::uint32_t i = 0; i < count; ++i) {
        if (!pinned[i] && !room)
            raise("PoolError", client.context() +
                                   ": join: this client holds as many chunks as its seat has pins for: "
                                   "commit leases, or drop views; these chunks are not stored");
        if (!pinned[i])
            raise("LeaseExpiredError", client.context() + ": join: chunk " + std::to_string(which[i]) +
                                           " is not being stored any more: " + why_given_up(*lease.core, got[i]));
        if (!is_of_key(*lease.core, got[i], digests[which[i]]))
            refuse_join(client, "the token's chunk " + std::to_string(which[i]) + " is of another key");
        check_chunk(client, lease, got[i].entry);
        lease.looks[which[i]] = got[i];
    }
}

nb::object join_store(PoolClient& client, std::unique_ptr<StoreLease> lease, std::span<const Item> items) {
    lease->make_room(items.size());
    lease->joined = true;
    std::vector<std::uint32_t> which;
    for (std::uint32_t i = 0; i < items.size(); ++i) {
        const bool known = items[i].status > 0 && items[i].status < static_cast<std::uint32_t>(Status::damaged);
        lease->statuses[i] = known ? static_cast<Status>(items[i].status) : Status::lost;
        if (lease->statuses[i] == Status::reserved) which.push_back(i);
    }
    if (const std::uint32_t room = lease->core->room(); which.size() > room)
        raise("PoolError", client.context() + ": join: the lease has " + std::to_string(which.size()) +
                               " chunks to fill, and this client has " + std::to_string(room) +
                               " pins left: commit leases, drop views, or start the server with more pins");
    for (std::size_t from = 0; from < which.size(); from += pool::kBatch)
        ask_to_join(client, *lease, items,
                    std::span(which).subspan(from, std::min<std::size_t>(pool::kBatch, which.size() - from)));
    return nb::cast(lease.release(), nb::rv_policy::take_ownership);
}

// Without a message: what has gone is a miss.
nb::object join_retrieve(PoolClient& client, std::unique_ptr<RetrieveLease> lease, std::span<const Item> items) {
    pool::Client& core = *lease->core;
    const auto digests = digests_of(lease->keys);
    lease->verify = client.verify;
    for (std::uint32_t i = 0; i < items.size(); ++i) {
        Look look{items[i].entry, pool::entry_word(items[i].generation, pool::EntryState::present)};
        const bool hit =
            items[i].status == static_cast<std::uint32_t>(Status::hit) && is_of_key(core, look, digests[i]);
        if (!hit && lease->leading) break;
        if (!hit) look.entry = pool::kNoEntry;
        lease->looks.push_back(look);
        if (!lease->leading) lease->statuses.push_back(hit ? Status::hit : Status::miss);
    }
    if (lease->leading) {
        const auto pinned = core.pin(lease->looks, lease->held->places);
        lease->looks.resize(pinned.count);
        lease->hits = pinned.count;
        if (lease->hits < items.size()) lease->statuses.assign(1, pinned.busy ? Status::busy : Status::miss);
    } else {
        std::vector<bool> pinned;
        const bool room = core.pin_each(lease->looks, lease->held->places, pinned);
        for (std::size_t i = 0; i < pinned.size(); ++i) {
            if (pinned[i]) {
                ++lease->hits;
                continue;
            }
            if (lease->statuses[i] == Status::hit) lease->statuses[i] = room ? Status::miss : Status::busy;
            lease->looks[i].entry = pool::kNoEntry;
        }
    }
    for (const Look& look : lease->looks)
        if (look.entry != pool::kNoEntry) check_chunk(client, *lease, look.entry);
    return nb::cast(lease.release(), nb::rv_policy::take_ownership);
}

}  // namespace

template <class Lease>
nb::object export_lease(nb::handle self) {
    constexpr bool kStores = std::is_same_v<Lease, StoreLease>;
    auto& lease = nb::cast<Lease&>(self);
    const auto& client = nb::cast<const PoolClient&>(lease.client);
    client.usable();
    if (lease.core != client.core)
        raise("LeaseExpiredError", client.context() + ": export: the lease is of the pool before a reconnect");
    if (lease.ended)
        raise("LeaseExpiredError", client.context() +
                                       ": export: these chunks have been given back: export before the "
                                       "lease is committed or aborted");
    if constexpr (kStores) {
        if (lease.joined)
            raise("PoolError", client.context() +
                                   ": export: this lease was joined itself, and has one part: who made "
                                   "the token exports it");
        const std::lock_guard guard(lease.gathers.mutex);
        const bool filled = std::ranges::any_of(lease.gathers.states,
                                                [](Gathers::State state) { return state != Gathers::State::none; }) ||
                            std::ranges::find(lease.gathers.shown, true) != lease.gathers.shown.end();
        if (filled && !lease.exported)
            raise("PoolError", client.context() +
                                   ": export: this lease fills its chunks itself already: export it "
                                   "before its slots are used");
        lease.exported = true;
    }
    const std::vector<Item> items = items_of(lease, kStores);
    bool leading = true;
    if constexpr (!kStores) leading = lease.leading;
    const nb::bytes packed(reinterpret_cast<const char*>(items.data()), items.size() * sizeof(Item));
    return nb::module_::import_("ringcast.pool._tokens")
        .attr("pack")(lease.client, lease.keys, packed, kStores, leading, lease.part.of, lease.chunk_bytes);
}
template nb::object export_lease<StoreLease>(nb::handle);
template nb::object export_lease<RetrieveLease>(nb::handle);

nb::object join(nb::handle self, nb::handle keys_object, nb::handle items_object, bool stores, bool leading,
                std::uint32_t part) {
    auto& client = nb::cast<PoolClient&>(self);
    client.usable();
    try {
        const Keys& keys = keys_of("keys", keys_object);
        const auto packed = nb::cast<nb::bytes>(items_object);
        std::vector<Item> items(keys.digests().size());
        if (packed.size() != items.size() * sizeof(Item))
            raise("ArgumentError", "items must be twelve bytes for each key");
        if (!items.empty()) std::memcpy(items.data(), packed.c_str(), packed.size());
        const std::uint32_t parts = client.parts_of(keys);
        if (part >= parts) raise("ArgumentError", "part must be less than " + std::to_string(parts));
        if (stores)
            return join_store(client, std::make_unique<StoreLease>(self, nb::borrow(keys_object), parts, part), items);
        auto lease = std::make_unique<RetrieveLease>(self, nb::borrow(keys_object), parts, part);
        lease->leading = leading;
        return join_retrieve(client, std::move(lease), items);
    } catch (const Error& error) {
        raise(error, client.context());
    }
}

void check_has_part(const PoolLease& lease) {
    if (lease.part.number != pool::kNoPart) return;
    raise("PoolError",
          "these chunks have " + std::to_string(lease.part.of) +
              " parts, and this lease has none of them: join(lease.export(), part) gives the slots of one");
}

void check_fills(const StoreLease& lease) {
    if (lease.exported)
        raise("PoolError",
              "this lease was exported, and its chunks are filled by who joins it: join(token, part) gives "
              "the slots of one part");
}

nb::tuple missing_of(const StoreLease& lease, std::optional<std::uint32_t> key) {
    const auto& client = nb::cast<const PoolClient&>(lease.client);
    pool::PartSet missing = 0;
    if (lease.ended && !(lease.committed && !lease.joined))
        raise("LeaseExpiredError", client.context() +
                                       ": missing_parts: this lease has been given back; ask the one "
                                       "that was exported, while it is open");
    for (std::uint32_t i = 0; i < lease.looks.size() && !lease.ended; ++i) {
        const Look& look = lease.looks[i];
        if (look.entry == pool::kNoEntry || (key && *key != i)) continue;
        const std::uint64_t word =
            lease.core->memory().index().entries[look.entry].word.load(std::memory_order_relaxed);
        if (word == look.word)
            missing |= pool::missing_parts(lease.core->memory().record(look.entry).committed, lease.part.of);
        else if (word != pool::entry_word(pool::generation_of(look.word), pool::EntryState::present))
            raise("LeaseExpiredError", client.context() + ": chunk " + std::to_string(i) +
                                           " is not being stored any more: " + why_given_up(*lease.core, look));
    }
    nb::list parts;
    for (std::uint32_t i = 0; i < lease.part.of; ++i)
        if ((missing & pool::part_bit(i)) != 0) parts.append(i);
    return nb::tuple(parts);
}

std::string why_given_up(const pool::Client& core, const Look& look) {
    using pool::Ending;
    const std::string unknown = "aborted, cleared, or this client was taken for dead";
    const auto& memory = core.memory();
    const std::uint64_t limbo = pool::entry_word(pool::generation_of(look.word), pool::EntryState::limbo);
    if (look.entry >= memory.index().n_entries ||
        memory.index().entries[look.entry].word.load(std::memory_order_acquire) != limbo)  // acquire [entry]
        return unknown;
    const std::uint32_t ended = memory.record(look.entry).ended.load(std::memory_order_relaxed);
    const Ending why = pool::ending_of(ended);
    if (why == Ending::none) return unknown;
    if (why == Ending::cleared) return "they were cleared";
    const std::uint32_t seat = pool::ending_seat(ended);
    std::string who = "a client that is gone";
    if (seat < memory.header().n_seats) {
        const std::uint32_t incarnation =
            pool::seat_incarnation(memory.seat(seat).state.load(std::memory_order_acquire));
        if (incarnation % pool::kEndingIncarnations == pool::ending_incarnation(ended))
            who = client_of_seat(core, seat);
    }
    if (why == Ending::aborted) return who + ", has aborted them";
    if (why == Ending::died) return who + ", has died before all was committed";
    return who + ", has let go of them without a commit";
}

void await_parts(PoolClient& client, const StoreLease& lease) {
    pool::Client& core = *lease.core;
    const auto& index = core.memory().index();
    const std::int64_t started = platform::monotonic_ns();
    const auto later = [](std::int64_t from, std::int64_t by) { return by >= kForever - from ? kForever : from + by; };
    std::int64_t dead_since = 0;
    Interest interest;
    bool wanted = true;
    for (;;) {
        const std::uint32_t seen = core.memory().changes();
        pool::PartSet missing = 0;
        std::size_t chunks = 0;
        for (const Look& look : lease.looks) {
            if (look.entry == pool::kNoEntry || !index.is_unchanged(look)) continue;
            missing |= pool::missing_parts(core.memory().record(look.entry).committed, lease.part.of);
            ++chunks;
        }
        if (chunks == 0) return;
        const bool given_up = std::ranges::any_of(lease.looks, [&](const Look& look) {
            return look.entry != pool::kNoEntry && !index.is_unchanged(look) &&
                   index.entries[look.entry].word.load(std::memory_order_relaxed) !=
                       pool::entry_word(pool::generation_of(look.word), pool::EntryState::present);
        });
        if (given_up) return;
        const std::int64_t now = platform::monotonic_ns();
        const auto elapsed = static_cast<double>(now - started) / 1e9;
        const bool alive = core.memory().server_alive();
        if (alive) dead_since = 0;
        if (!alive && dead_since == 0) dead_since = now;
        std::string what = client.context();
        what += ": commit_store of " + std::to_string(chunks);
        what += chunks == 1 ? " chunk: " : " chunks: ";
        if (core.memory().words().life.load(std::memory_order_relaxed) == pool::PoolLife::closed)
            raise("PoolClosedError", what + "its server has closed the pool; these chunks are not stored");
        if (!alive && now >= later(dead_since, client.regain_ns))
            raise("ServerDiedError",
                  what + core.memory().server() +
                      " died, and no other one took the pool over; commit_store may be repeated once "
                      "there is one");
        if (now >= later(started, client.timeout_ns) || !wanted) {
            char waited[32];
            std::snprintf(waited, sizeof waited, "%.3g s", elapsed);
            raise("PoolTimeoutError", what + "waited " + waited + " for parts " + listed(missing, lease.part.of) +
                                          ", which are not committed; wait again by commit_store, or abort_store");
        }
        {
            const Unlocked unlocked;
            const std::int64_t until = std::min(later(started, client.timeout_ns),
                                                dead_since == 0 ? kForever : later(dead_since, client.regain_ns));
            core.memory().wait_for_change(seen, std::max<std::int64_t>(until - now, 1));
        }
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        client.check_usable(core);
        wanted = interest.look() != Wanted::no_more;
    }
}

}  // namespace ringcast::bindings
