// Retrieving: what is there is pinned, without a message, and read in place.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include "arguments.hpp"
#include "methods.hpp"
#include "platform/clock.hpp"
#include "pool_client.hpp"
#include "py_errors.hpp"
#include "unlocked.hpp"
#include "wanted.hpp"

namespace ringcast::bindings {

using namespace nb::literals;
using pool::Look;
using pool::Status;

namespace {

// Does another client store it just now, so that it is worth while to wait?
bool is_anothers(pool::Client& core, const pool::Digest& key) {
    const auto found = core.memory().index().find(key);
    if (found.entry == pool::kNoEntry || pool::state_of(found.word) != pool::EntryState::reserved) return false;
    if (core.holds({found.entry, found.word})) return false;  // it fills a part of it
    return core.memory().record(found.entry).owner_seat.load(std::memory_order_relaxed) != core.seat();
}

// Pins the leading hits; the first key that is none has the status `stopped`.
void pin_leading_hits(PoolClient& client, RetrieveLease& lease, std::span<const pool::Digest> keys) {
    pool::Client& core = *lease.core;
    Status stopped{};
    core.find_leading(keys, lease.looks, stopped);
    const auto pinned = core.pin(lease.looks, lease.held->places);
    if (pinned.count < lease.looks.size() && !pinned.busy) stopped = Status::miss;  // it went between two looks
    if (pinned.busy) stopped = Status::busy;
    lease.looks.resize(pinned.count);
    lease.hits = pinned.count;
    lease.statuses.clear();
    if (lease.hits < keys.size()) lease.statuses.push_back(stopped);
    for (const Look& look : lease.looks) check_chunk(client, lease, look.entry);
    // Of a run one word tells all.
    for (std::size_t i = 0; lease.is_use && i < lease.held->places.size(); ++i) {
        const pool::Place& run = lease.held->places[i];
        core.touch(lease.looks[run.last].entry, run.last - run.first);
    }
}

void pin_each_hit(PoolClient& client, RetrieveLease& lease, std::span<const pool::Digest> keys) {
    pool::Client& core = *lease.core;
    core.find_each(keys, lease.looks, lease.statuses);
    std::vector<bool> pinned;
    const bool room = core.pin_each(lease.looks, lease.held->places, pinned);
    lease.hits = 0;
    for (std::size_t i = 0; i < pinned.size(); ++i) {
        if (pinned[i]) {
            ++lease.hits;
            check_chunk(client, lease, lease.looks[i].entry);
            core.touch(lease.looks[i].entry, 0);
            continue;
        }
        if (lease.statuses[i] == Status::hit) lease.statuses[i] = room ? Status::miss : Status::busy;
        lease.looks[i].entry = pool::kNoEntry;
    }
}

// Has the server bring what of the keys from this one on is in tiers into memory; the index shows what comes of it. False:
// there is nothing to wait for.
bool promote(PoolClient& client, const std::shared_ptr<pool::Client>& core, const Keys& keys, std::uint32_t from,
             std::int64_t within_ns) {
    const auto digests = keys.digests();
    for (std::size_t begin = from; begin < digests.size(); begin += pool::kBatch) {
        const auto count = static_cast<std::uint32_t>(std::min<std::size_t>(pool::kBatch, digests.size() - begin));
        Asking asking(client, core, "bringing chunks from tiers", count, std::min(client.timeout_ns, within_ns));
        const pool::Digest* parent = begin == 0 ? keys.parent() : &digests[begin - 1];
        describe_request(asking, keys, keys.space().chained ? parent : nullptr, client.chunk_bytes);
        for (std::uint32_t i = 0; i < count; ++i)
            for (std::size_t k = 0; k < 4; ++k)
                asking.item(i).digest[k].store(digests[begin + i].words[k], std::memory_order_relaxed);
        asking.ask(pool::Ask::promote);
        asking.take();
    }
    const auto found = core->memory().index().find(digests[from]);
    return found.entry != pool::kNoEntry && pool::state_of(found.word) != pool::EntryState::tiered;
}

// Waits until what ended the hits is there: another client stores it, or a tier has it. At most `until`.
void wait_for_pending(PoolClient& client, RetrieveLease& lease, const Keys& all, std::int64_t until) {
    pool::Client& core = *lease.core;
    const auto keys = all.digests();
    Interest interest;
    // Of tiers that have to be asked only once: what they do not have is a miss.
    bool asks = core.memory().words().asks_tiers.load(std::memory_order_relaxed) != 0;
    const auto is_tiered = [&] {
        return lease.statuses.front() == Status::tiered || (asks && lease.statuses.front() == Status::miss);
    };
    while (lease.hits < keys.size() && (lease.statuses.front() == Status::pending || is_tiered())) {
        if (is_tiered()) {
            if (lease.statuses.front() == Status::miss) asks = false;
            const std::int64_t left = until - platform::monotonic_ns();
            try {
                if (left <= 0 || !promote(client, lease.core, all, lease.hits, left)) return;
            } catch (nb::python_error& error) {
                if (interrupts(error)) throw;  // else what is in memory is there, whatever the server does
                return;
            }
            core.unpin(lease.held->places);
            pin_leading_hits(client, lease, keys);
            continue;
        }
        const std::uint32_t seen = core.memory().changes();
        if (!is_anothers(core, keys[lease.hits])) {
            // It is there by now, or given up; or it is this client's own, for which it does not wait.
            const auto found = core.memory().index().find(keys[lease.hits]);
            if (found.entry != pool::kNoEntry && pool::state_of(found.word) == pool::EntryState::reserved) return;
        } else {
            const std::int64_t left = until - platform::monotonic_ns();
            if (left <= 0) return;
            const Unlocked unlocked;
            core.memory().wait_for_change(seen, left);
        }
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        client.check_usable(core);
        if (interest.look() == Wanted::no_more) return;
        core.unpin(lease.held->places);
        pin_leading_hits(client, lease, keys);
    }
}

nb::list statuses_of(const RetrieveLease& lease) {
    const std::size_t n = nb::len(lease.keys);
    if (!lease.leading) return status_list(lease.statuses);
    std::vector<Status> all(n, Status::miss);
    for (std::uint32_t i = 0; i < lease.hits; ++i) all[i] = Status::hit;
    if (lease.hits < n) all[lease.hits] = lease.statuses.front();
    return status_list(all);
}

// Looks whether the chunks are what was stored, each once in this process. What is not is a miss. Until that is known nobody
// is given any: threads that ask at the same time look each for itself, and the first of them settles it.
void verify(RetrieveLease& lease) {
    if (!lease.verify) return;
    const bool each = !lease.leading;
    const std::vector<Look> looks = lease.looks;
    std::vector<std::uint32_t> damaged;
    {
        const Unlocked unlocked;
        for (std::uint32_t i = 0; i < looks.size(); ++i) {
            if (looks[i].entry == pool::kNoEntry || lease.core->is_intact(looks[i], lease.part)) continue;
            damaged.push_back(i);
            if (!each) break;  // what comes behind it cannot be used
        }
    }
    if (!lease.verify || lease.ended) return;
    lease.verify = false;
    for (const std::uint32_t i : damaged) {
        if (each) {
            lease.statuses[i] = Status::miss;
            lease.looks[i].entry = pool::kNoEntry;
            --lease.hits;
        } else {
            lease.looks.resize(i);
            lease.hits = i;
            lease.statuses.assign(1, Status::miss);
        }
    }
    for (const std::uint32_t i : damaged) report_damage(nb::cast<PoolClient&>(lease.client), lease.core, looks[i]);
}

nb::list slots_of(nb::handle self) {
    auto& lease = nb::cast<RetrieveLease&>(self);
    check_has_part(lease);
    if (!lease.ended) verify(lease);
    if (lease.ended)
        raise("LeaseExpiredError", "these chunks have been given back: take their slots before commit_retrieve");
    nb::list slots;
    for (std::uint32_t i = 0; i < lease.looks.size(); ++i)
        if (lease.looks[i].entry != pool::kNoEntry) slots.append(make_slot(nb::borrow(self), lease, i, false));
    return slots;
}

PyObject* call_export(PyObject* self, PyObject*) {
    return translated<PyObject*>(nullptr, [&] { return export_lease<RetrieveLease>(self).release().ptr(); });
}
PyMethodDef methods[] = {
    {"export", &call_export, METH_NOARGS,
     R"(export($self)
--

A token with which others join this lease, each in its own process: `PoolClient.join`.

>>> with client.retrieve(keys) as found, client.join(found.export()) as joined:
...     joined.hits
2
)"},
};

}  // namespace

nb::object prepare_retrieve(nb::handle self, nb::handle keys_object, nb::handle wait, nb::handle leading) {
    auto& client = nb::cast<PoolClient&>(self);
    pool::Client& core = client.usable();
    const Keys& asked = keys_of("keys", keys_object);
    const auto keys = asked.digests();
    const bool each = !leading.is_none() && !parse_flag("leading", leading.ptr());
    auto made = std::make_unique<RetrieveLease>(self, nb::borrow(keys_object), client.parts_of(asked));
    made->verify = client.verify;
    made->leading = !each;
    if (each) {
        pin_each_hit(client, *made, keys);
    } else {
        pin_leading_hits(client, *made, keys);
        if (!wait.is_none() && made->hits < keys.size()) {
            const std::int64_t most = parse_seconds("wait", wait.ptr());
            const std::int64_t now = platform::monotonic_ns();
            wait_for_pending(client, *made, keys_of("keys", keys_object),
                             most > kForever - now ? kForever : now + most);
        }
    }
    auto& counters = core.memory().own_seat().counters;
    const auto add = [](std::atomic<std::uint64_t>& count, std::uint64_t by) {
        count.store(count.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
    };
    if (!core.closed()) {  // else the seat may be another client's by now
        add(counters.retrieves, 1);
        add(counters.keys_retrieved, keys.size());
        add(counters.hits, made->hits);
    }
    return nb::cast(made.release(), nb::rv_policy::take_ownership);
}

nb::object prefetch(nb::handle self, nb::handle keys_object, nb::handle wait) {
    auto& client = nb::cast<PoolClient&>(self);
    client.usable();
    const Keys& keys = keys_of("keys", keys_object);
    RetrieveLease lease(self, nb::borrow(keys_object), keys.space().shards);
    lease.is_use = false;
    pin_leading_hits(client, lease, keys.digests());
    const std::int64_t most = parse_seconds("wait", wait.ptr());
    const std::int64_t now = platform::monotonic_ns();
    if (lease.hits < keys.digests().size())
        wait_for_pending(client, lease, keys, most > kForever - now ? kForever : now + most);
    return nb::int_(lease.hits);
}

void commit_retrieve(nb::handle self, nb::handle lease_object) {
    (void)self;
    nb::cast<RetrieveLease&>(lease_object).end();
}

void add_retrieve_types(nb::module_& module) {
    Collected<RetrieveLease> collected;
    nb::class_<RetrieveLease> type(
        module, "RetrieveLease", nb::type_slots(collected.slots),
        R"(Chunks that are pinned to be read, until it is committed and the last view is gone.

`hits` is how many; `statuses` says what became of each key, and `slots` are those that can be read. In a `with` block its
end commits. Its chunks are compared with their checksums when the slots are first asked for; what differs is a miss.

>>> with client.retrieve(keys) as found:
...     found.hits, len(found.slots), found.statuses[0].name
(2, 2, 'HIT')
)");
    type.def_prop_ro("keys", [](const RetrieveLease& lease) { return lease.keys; })
        .def_ro("hits", &RetrieveLease::hits)
        .def_prop_ro("statuses", &statuses_of)
        .def_prop_ro("slots", &slots_of)
        .def_prop_ro("ended", [](const RetrieveLease& lease) { return lease.ended; })
        .def("__len__", [](const RetrieveLease& lease) { return lease.hits; })
        .def("__enter__", [](nb::handle self) { return nb::borrow(self); })
        .def(
            "__exit__", [](RetrieveLease& lease, nb::handle, nb::handle, nb::handle) { lease.end(); }, nb::arg().none(),
            nb::arg().none(), nb::arg().none());
    add_methods(type, methods, std::size(methods));
}

}  // namespace ringcast::bindings
