// The Python type PoolMemory: a pool looked at from outside. Takes no seat, asks no server, and stores nothing but its wish to
// be woken.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <unordered_map>
#include <vector>

#include "locks.hpp"
#include "modules.hpp"
#include "platform/clock.hpp"
#include "platform/process.hpp"
#include "pool/hit_rate_curve.hpp"
#include "pool/journal.hpp"
#include "pool/parts.hpp"
#include "pool_keys.hpp"
#include "pool_memory.hpp"
#include "py_errors.hpp"
#include "unlocked.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ringcast::bindings {

namespace {

using pool::PoolMemory;

constexpr std::size_t kPinsShown = 8;

template <class T>
T of(const std::atomic<T>& word) {
    return word.load(std::memory_order_relaxed);
}

nb::bytes as_bytes(std::uint64_t digest_begin) {
    return nb::bytes(reinterpret_cast<const char*>(&digest_begin), sizeof digest_begin);
}

std::string hex_of(std::uint64_t digest_begin) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (int i = 0; i < 8; ++i, digest_begin >>= 8) {
        text += kDigits[digest_begin >> 4 & 0xf];
        text += kDigits[digest_begin & 0xf];
    }
    return text;
}

// What a chunk is, copied while it was there.
struct Chunk {
    pool::Digest digest{};
    pool::Digest parent{};
    std::uint64_t tenant = 0;
    std::uint64_t space = 0;
    std::int64_t at_ns = 0;
    std::uint32_t length = 0;        // what was stored
    std::uint32_t block_length = 0;  // with the checksums of parts, as quotas count it
};

template <class Visit>
void for_each_present(const PoolMemory& memory, Visit&& visit) {
    const auto& index = memory.index();
    for (std::uint32_t e = 0; e < index.n_entries; ++e) {
        const pool::NativeEntry& entry = index.entries[e];
        const std::uint64_t word = entry.word.load(std::memory_order_acquire);  // acquire [entry]
        if (pool::state_of(word) != pool::EntryState::present) continue;
        const pool::EntryRecord& record = memory.record(e);
        Chunk chunk{.digest = index.digest_of(e),
                    .tenant = of(record.tenant),
                    .space = of(record.space),
                    .at_ns = of(record.stored_at_ns),
                    .block_length = of(entry.length)};
        chunk.length = static_cast<std::uint32_t>(pool::payload_bytes(chunk.block_length, of(record.parts)));
        if (const std::uint32_t parent = of(entry.parent); parent != 0 && parent <= index.n_entries)
            chunk.parent = index.digest_of(parent - 1);
        const pool::Look look{e, word};
        if (index.confirmed({&look, 1}) == 1) visit(chunk);
    }
}

std::string name_of_medium(const PoolMemory& memory, pool::EventMedium medium) {
    const auto& words = memory.words();
    if (medium == pool::kInMemory || medium > std::min(of(words.n_tiers), pool::kMostTiers)) return "memory";
    const pool::TierWords& tier = words.tiers[medium - 1];
    return ringcast::text_of(tier.name, sizeof tier.name);
}

// (number, kind, key, parent, length, space, tenant, at_ns, reason, medium), as ringcast.pool.PoolEvent has them.
nb::tuple event(const PoolMemory& memory, std::uint64_t number, pool::EventKind kind, pool::EventReason reason,
                pool::EventMedium medium, const Chunk& chunk) {
    static constexpr const char* kKinds[] = {"", "stored", "removed", "cleared", "resync"};
    static constexpr const char* kReasons[] = {"", "evicted", "orphaned", "damaged", "failed"};
    const auto what = static_cast<std::size_t>(kind);
    const auto why = static_cast<std::size_t>(reason);
    const bool of_chunk = kind == pool::EventKind::stored || kind == pool::EventKind::removed;
    const auto digest = [](const pool::Digest& one, bool there) -> nb::object {
        return there ? nb::object(digest_as_bytes(one)) : nb::none();
    };
    const bool of_space = of_chunk || chunk.space != 0;
    return nb::make_tuple(number, what < std::size(kKinds) ? kKinds[what] : "", digest(chunk.digest, of_chunk),
                          digest(chunk.parent, of_chunk && chunk.parent != pool::Digest{}), chunk.length,
                          of_space ? nb::object(as_bytes(chunk.space)) : nb::none(),
                          of_chunk ? nb::object(as_bytes(chunk.tenant)) : nb::none(), chunk.at_ns,
                          why < std::size(kReasons) ? kReasons[why] : "", name_of_medium(memory, medium));
}

// ([event, ...], the number after them, were some lost before them?).
nb::tuple events(const PoolMemory& memory, std::uint64_t after, std::uint32_t most) {
    const std::uint32_t n = memory.header().n_events;
    const std::uint64_t end = pool::events_so_far(memory.words());
    const std::uint64_t first = std::max(after, end - std::min<std::uint64_t>(end, n));
    const std::uint64_t last = first + std::min<std::uint64_t>(end - std::min(first, end), most);
    struct Copied {
        Chunk chunk;
        std::uint32_t what;
    };
    std::vector<Copied> copied;
    copied.reserve(last - std::min(first, last));
    for (std::uint64_t i = first; i < last; ++i) {
        const pool::EventRecord& record = memory.events()[i & (n - 1)];
        Copied& one = copied.emplace_back();
        for (std::size_t k = 0; k < 4; ++k) {
            one.chunk.digest.words[k] = of(record.digest[k]);
            one.chunk.parent.words[k] = of(record.parent[k]);
        }
        one.chunk.tenant = of(record.tenant);
        one.chunk.space = of(record.space);
        one.chunk.at_ns = of(record.at_ns);
        one.chunk.length = of(record.length);
        one.what = of(record.what);
    }
    const std::uint64_t intact = std::max(first, pool::first_intact_event(memory.words(), n));
    nb::list list;
    for (std::uint64_t i = intact; i < last; ++i) {
        const Copied& one = copied[i - first];
        list.append(event(memory, i, pool::kind_of_event(one.what), pool::reason_of_event(one.what),
                          pool::medium_of_event(one.what), one.chunk));
    }
    // Numbers that are still to come were another pool's.
    const bool lost = intact != after || after > end;
    return nb::make_tuple(list, std::max(last, std::min(intact, end)), lost);
}

// ([what is there, as events of that number, ...], number): from that event on, whatever happens changes this picture.
nb::tuple present(const PoolMemory& memory) {
    const std::uint64_t number = pool::events_so_far(memory.words());
    std::vector<Chunk> chunks;
    {
        const Unlocked unlocked;
        for_each_present(memory, [&](const Chunk& chunk) { chunks.push_back(chunk); });
    }
    nb::list list;
    for (const Chunk& chunk : chunks)
        list.append(event(memory, number, pool::EventKind::stored, {}, pool::kInMemory, chunk));
    return nb::make_tuple(list, number);
}

// Of each key "present", "pending", "tiered" or "missing": at this moment.
nb::list states(const PoolMemory& memory, nb::handle keys) {
    nb::list list;
    for (const pool::Digest& key : digests_of(keys)) {
        const auto found = memory.index().find(key);
        const pool::Look look{found.entry, found.word};
        const bool there = found.entry != pool::kNoEntry && memory.index().confirmed({&look, 1}) == 1;
        const auto state = pool::state_of(found.word);
        list.append(there && state == pool::EntryState::present    ? "present"
                    : there && state == pool::EntryState::reserved ? "pending"
                    : there && state == pool::EntryState::tiered   ? "tiered"
                                                                   : "missing");
    }
    return list;
}

// (digest, the salt's digest, the bytes that docs/keys.md has) of each namespace that has been stored for.
nb::list spaces(const PoolMemory& memory) {
    nb::list list;
    for (const pool::SpaceRecord& record : memory.spaces()) {
        if (record.written.load(std::memory_order_acquire) == 0) break;  // acquire [space]
        const std::size_t length = std::min(record.length, pool::kSpaceBytes);
        list.append(nb::make_tuple(digest_as_bytes(record.digest), digest_as_bytes(record.salt_digest),
                                   nb::bytes(reinterpret_cast<const char*>(record.bytes), length)));
    }
    return list;
}

// Waits until there is an event of that number, or the pool has been closed; at most so long. True: there is one.
bool wait_for_event(const PoolMemory& memory, std::uint64_t number, std::int64_t most_ns) {
    const std::int64_t until = platform::monotonic_ns() + most_ns;
    for (;;) {
        const std::uint32_t seen = memory.changes();
        if (pool::events_so_far(memory.words()) > number) return true;
        const std::int64_t left = until - platform::monotonic_ns();
        if (left <= 0 || of(memory.words().life) == pool::PoolLife::closed) return false;
        {
            const Unlocked unlocked;
            memory.wait_for_change(seen, left);
        }
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
    }
}

const char* server_state(const PoolMemory& memory) {
    const auto& words = memory.words();
    if (!memory.server_alive()) return "gone";
    const auto state = platform::process_state(of(words.pid), of(words.pid_namespace));
    return state == platform::ProcessState::stopped ? "stopped" : "living";
}

struct Usage {
    std::uint64_t chunks = 0;
    std::uint64_t bytes = 0;
};
using Usages = std::unordered_map<std::uint64_t, Usage>;

nb::list tenants_of(const PoolMemory& memory, const Usages& used) {
    const auto& words = memory.words();
    std::unordered_map<std::uint64_t, std::uint64_t> quotas;
    for (std::uint32_t i = 0; i < std::min(of(words.n_quotas), pool::kQuotasShown); ++i)
        quotas[of(words.quotas[i].tenant)] = of(words.quotas[i].bytes);
    std::vector<std::pair<std::uint64_t, Usage>> rows(used.begin(), used.end());
    for (const auto& [tenant, quota] : quotas)
        if (!used.contains(tenant)) rows.emplace_back(tenant, Usage{});
    std::ranges::sort(rows, [](const auto& a, const auto& b) {
        return a.second.bytes != b.second.bytes ? a.second.bytes > b.second.bytes : a.first < b.first;
    });
    nb::list list;
    for (const auto& [tenant, usage] : rows) {
        nb::dict row;
        row["salt_digest"] = hex_of(tenant);
        row["chunks"] = usage.chunks;
        row["used_bytes"] = usage.bytes;
        const auto quota = quotas.find(tenant);
        row["quota"] = quota == quotas.end() ? nb::object(nb::none()) : nb::object(nb::int_(quota->second));
        list.append(row);
    }
    return list;
}

nb::dict curve_of(const PoolMemory& memory) {
    const auto& words = memory.words();
    nb::dict curve;
    if (of(words.curve_accesses) == 0) return curve;
    for (std::size_t policy = 0; policy < pool::kPolicies; ++policy) {
        nb::dict row;
        for (std::size_t factor = 0; factor < pool::kCurveFactors; ++factor) {
            char name[16];
            std::snprintf(name, sizeof name, "%g", pool::HitRateCurve::kFactors[factor]);
            row[name] = of(words.curve[policy][factor]) / 1e6;
        }
        curve[pool::name_of(pool::HitRateCurve::kPolicies[policy])] = row;
    }
    return curve;
}

nb::list tiers_of(const PoolMemory& memory) {
    const auto& words = memory.words();
    nb::list list;
    for (std::uint32_t i = 0; i < std::min(of(words.n_tiers), pool::kMostTiers); ++i) {
        const pool::TierWords& tier = words.tiers[i];
        nb::dict row;
        row["name"] = ringcast::text_of(tier.name, sizeof tier.name);
        row["local"] = of(tier.local) != 0;
        row["slots"] = of(tier.slots);
        row["chunks"] = of(tier.copies);
        row["stored"] = of(tier.stored);
        row["stored_bytes"] = of(tier.stored_bytes);
        row["store_ns"] = of(tier.store_ns);
        row["wanted"] = of(tier.wanted);
        row["hits"] = of(tier.loaded);
        row["loaded_bytes"] = of(tier.loaded_bytes);
        row["load_ns"] = of(tier.load_ns);
        row["dropped"] = of(tier.dropped);
        row["failed"] = of(tier.failed);
        row["corrupt"] = of(tier.corrupt);
        row["late"] = of(tier.late);
        row["waiting"] = of(tier.waiting);
        row["running"] = of(tier.running);
        list.append(row);
    }
    return list;
}

struct Held {
    std::uint32_t seat;
    std::uint32_t entry;
    std::uint32_t age_ms;
};

void describe_counters(nb::dict& into, const pool::SeatCounters& counters) {
    into["lookups"] = of(counters.lookups);
    into["keys_looked_up"] = of(counters.keys_looked_up);
    into["keys_found"] = of(counters.keys_found);
    into["retrieves"] = of(counters.retrieves);
    into["keys_retrieved"] = of(counters.keys_retrieved);
    into["hits"] = of(counters.hits);
}

}  // namespace

nb::dict described(const PoolMemory& memory) {
    const auto& header = memory.header();
    const auto& words = memory.words();
    Usages used;
    std::vector<Held> held;
    {
        const Unlocked unlocked;
        for_each_present(memory, [&](const Chunk& chunk) {
            Usage& usage = used[chunk.tenant];
            ++usage.chunks;
            usage.bytes += chunk.block_length;
        });
    }
    nb::dict all;
    all["name"] = ringcast::text_of(header.user_name, sizeof header.user_name);
    all["segment"] = memory.name();
    all["epoch"] = of(words.epoch);
    all["capacity"] = header.capacity;
    all["entries"] = header.n_entries;
    all["policy"] = pool::name_of(static_cast<pool::PolicyKind>(of(words.policy)));
    all["kept"] = header.kept != 0;
    all["checksums"] = header.checksums != 0;
    all["created_at_ns"] = header.created_at_ns;
    all["closed"] = of(words.life) == pool::PoolLife::closed;
    all["server_pid"] = of(words.pid);
    all["server"] = server_state(memory);
    all["used_bytes"] = of(words.used_bytes);
    all["chunks"] = of(words.chunks);
    all["reserved"] = of(words.reserved);
    all["limbo"] = of(words.limbo);
    all["quarantined"] = of(words.quarantined);
    all["stored"] = of(words.stored);
    all["evicted"] = of(words.evicted);
    all["aborted"] = of(words.aborted);
    all["cleared"] = of(words.cleared);
    all["no_memory"] = of(words.no_memory);
    all["full_buckets"] = of(words.full_buckets);
    all["refused"] = of(words.refused);
    all["events"] = pool::events_so_far(words);
    pool::SeatCounters total{};
    total.add(words.past);
    nb::list clients;
    const std::uint32_t now = platform::coarse_milliseconds();
    for (std::uint32_t i = 0; i < header.n_seats; ++i) {
        const auto& seat = memory.seat(i);
        const auto state = pool::seat_state(seat.state.load(std::memory_order_acquire));
        if (state == pool::PoolSeatState::vacant) continue;
        total.add(seat.counters);
        const bool alive = memory.locks().is_held_by_another(seat_lock(i));
        const std::uint32_t n_pins = std::min(of(seat.pins_used), header.n_pins);
        std::uint32_t pins = 0;
        std::uint32_t oldest = 0;
        for (std::uint32_t k = 0; k < n_pins; ++k) {
            const std::uint64_t pin = of(seat.pins[k]);
            if (pin == 0) continue;
            ++pins;
            const std::uint32_t age = now - of(pool::pinned_since(seat, header.n_pins)[k]);
            oldest = std::max(oldest, age);
            if (alive && pool::pinned_entry(pin) < header.n_entries) held.push_back({i, pool::pinned_entry(pin), age});
        }
        nb::dict client;
        client["seat"] = i;
        client["forked"] = state == pool::PoolSeatState::inherited;
        client["worker_id"] = ringcast::text_of(seat.worker_id, sizeof seat.worker_id);
        client["pid"] = of(seat.pid);
        client["alive"] = alive;
        client["since_ns"] = of(seat.since_ns);
        client["pins"] = pins;
        client["oldest_pin_s"] = oldest / 1e3;
        describe_counters(client, seat.counters);
        clients.append(client);
    }
    describe_counters(all, total);
    const std::size_t shown = std::min(kPinsShown, held.size());
    std::ranges::partial_sort(held, held.begin() + static_cast<std::ptrdiff_t>(shown), std::ranges::greater{},
                              &Held::age_ms);
    nb::list oldest_pins;
    for (std::size_t i = 0; i < shown; ++i) {
        const auto& seat = memory.seat(held[i].seat);
        nb::dict pin;
        pin["seat"] = held[i].seat;
        pin["worker_id"] = ringcast::text_of(seat.worker_id, sizeof seat.worker_id);
        pin["pid"] = of(seat.pid);
        pin["age_s"] = held[i].age_ms / 1e3;
        const pool::Digest key = memory.index().digest_of(held[i].entry);
        pin["key"] = hex_of(key.words[0]) + hex_of(key.words[1]) + hex_of(key.words[2]) + hex_of(key.words[3]);
        oldest_pins.append(pin);
    }
    all["oldest_pins"] = oldest_pins;
    all["tenants"] = tenants_of(memory, used);
    all["tiers"] = tiers_of(memory);
    all["curve"] = curve_of(memory);
    all["curve_accesses"] = of(words.curve_accesses);
    all["curve_lost"] = of(words.curve_lost);
    all["spaces"] = static_cast<std::uint64_t>(
        std::ranges::count_if(memory.spaces(), [](const auto& record) { return of(record.written) != 0; }));
    all["spaces_without_room"] = of(words.spaces_without_room);
    all["clients"] = clients;
    return all;
}

void bind_pool_memory(nb::module_& module) {
    nb::class_<PoolMemory>(module, "PoolMemory", "A pool's memory, looked at from outside.")
        .def(nb::new_([](const std::string& name, const std::string& release) {
                 std::unique_ptr<PoolMemory> memory;
                 const Unlocked unlocked;
                 memory = PoolMemory::attach(name, release);
                 return std::shared_ptr<PoolMemory>(std::move(memory));
             }),
             "name"_a, "release"_a)
        .def("described", &described)
        .def("events", &events, "after"_a, "most"_a)
        .def("present", &present)
        .def("states", &states, "keys"_a)
        .def("spaces", &spaces)
        .def("wait_for_event", &wait_for_event, "number"_a, "most_ns"_a)
        .def_prop_ro("id", [](const PoolMemory& memory) { return memory.header().epoch; })
        .def_prop_ro("label", &PoolMemory::label)
        .def_prop_ro("closed",
                     [](const PoolMemory& memory) { return of(memory.words().life) == pool::PoolLife::closed; })
        .def_prop_ro("server", &server_state);
}

}  // namespace ringcast::bindings
