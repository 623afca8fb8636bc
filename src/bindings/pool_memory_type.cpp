// The Python type PoolMemory: a pool looked at from outside. Takes no seat, asks no server, and stores nothing but its wish to
// be woken.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "modules.hpp"
#include "platform/clock.hpp"
#include "pool/journal.hpp"
#include "pool_keys.hpp"
#include "pool_memory.hpp"
#include "py_errors.hpp"
#include "unlocked.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ringcast::bindings {

using pool::PoolMemory;

namespace {

nb::bytes as_bytes(std::uint64_t digest_begin) {
    return nb::bytes(reinterpret_cast<const char*>(&digest_begin), sizeof digest_begin);
}

std::string name_of_medium(const PoolMemory& memory, pool::EventMedium medium) {
    const auto& words = memory.words();
    if (medium == pool::kInMemory || medium > std::min(of(words.n_tiers), pool::kMostTiers)) return "memory";
    const pool::TierWords& tier = words.tiers[medium - 1];
    return ringcast::text_of(tier.name, sizeof tier.name);
}

// (number, kind, key, parent, length, space, tenant, at_ns, reason, medium), as ringcast.pool.PoolEvent has them.
nb::tuple event(const PoolMemory& memory, std::uint64_t number, pool::EventKind kind, pool::EventReason reason,
                pool::EventMedium medium, const PoolChunk& chunk) {
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
        PoolChunk chunk;
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
    std::vector<PoolChunk> chunks;
    {
        const Unlocked unlocked;
        for_each_present(memory, [&](const PoolChunk& chunk) { chunks.push_back(chunk); });
    }
    nb::list list;
    for (const PoolChunk& chunk : chunks)
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

}  // namespace

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
