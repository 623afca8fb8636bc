// Storing: the server reserves what is missing, the client fills it in place, and only a commit makes it visible.
#include <nanobind/nanobind.h>

#include <algorithm>
#include <cstring>

#include "arguments.hpp"
#include "methods.hpp"
#include "pool/checksum.hpp"
#include "pool_client.hpp"
#include "py_errors.hpp"
#include "unlocked.hpp"

namespace ringcast::bindings {

using namespace nb::literals;
using pool::Look;
using pool::Status;

namespace {

StoreLease& open_lease(nb::handle self, nb::handle object, const char* what) {
    auto& lease = nb::cast<StoreLease&>(object);
    const auto& client = nb::cast<PoolClient&>(self);
    client.usable();
    if (lease.core != client.core)
        raise("LeaseExpiredError", client.context() + ": " + what +
                                       ": the lease is of another client, or of the pool before a reconnect; its "
                                       "chunks are not stored");
    if (lease.aborted)
        raise("LeaseExpiredError", client.context() + ": " + what + ": the lease was aborted; nothing has changed");
    return lease;
}

// Tells the pool what the namespace is, once.
void describe_space(PoolClient& client, const std::shared_ptr<pool::Client>& core, const KeySpace& space,
                    std::size_t keys) {
    if (core->knows_space(space.digest)) return;
    const auto packed = nb::cast<nb::bytes>(space.object.attr("packed"));
    const auto words = static_cast<std::uint32_t>((packed.size() + pool::kDigestBytes - 1) / pool::kDigestBytes);
    Asking asking(client, core, "prepare_store", 1 + words, client.timeout_ns, static_cast<std::uint32_t>(keys));
    const auto put = [&](auto& into, const pool::Digest& digest) {
        for (std::size_t k = 0; k < 4; ++k) into[k].store(digest.words[k], std::memory_order_relaxed);
    };
    put(asking.slot().parent, space.digest);
    put(asking.item(0).digest, space.tenant);
    for (std::uint32_t i = 0; i < words; ++i) {
        pool::Digest piece{};
        const std::size_t from = i * pool::kDigestBytes;
        std::memcpy(&piece, packed.c_str() + from, std::min(pool::kDigestBytes, packed.size() - from));
        put(asking.item(1 + i).digest, piece);
    }
    asking.slot().length.store(static_cast<std::uint32_t>(packed.size()), std::memory_order_relaxed);
    asking.slot().has_parent.store(1, std::memory_order_relaxed);
    asking.ask(pool::Ask::describe);
    asking.take();
    core->told_space(space.digest);
}

// Asks for these of the lease's keys, which are not there yet, and pins what it gets.
void reserve(PoolClient& client, StoreLease& lease, const Keys& keys, const std::vector<std::uint32_t>& which,
             std::size_t from, std::size_t count, const pool::Digest* parent) {
    const auto digests = keys.digests();
    Asking asking(client, lease.core, "prepare_store", static_cast<std::uint32_t>(count), client.timeout_ns);
    describe_request(asking, keys, parent, client.chunk_bytes);
    for (std::size_t i = 0; i < count; ++i)
        for (std::size_t k = 0; k < 4; ++k)
            asking.item(static_cast<std::uint32_t>(i))
                .digest[k]
                .store(digests[which[from + i]].words[k], std::memory_order_relaxed);
    asking.ask(pool::Ask::reserve);
    std::vector<Look> got(count, Look{pool::kNoEntry, 0});
    for (std::uint32_t i = 0; i < count; ++i) {
        const std::uint32_t key = which[from + i];
        lease.statuses[key] = asking.status(i);
        if (lease.statuses[key] != Status::reserved) continue;
        const std::uint32_t entry = asking.item(i).entry.load(std::memory_order_relaxed);
        const std::uint32_t generation = asking.item(i).generation.load(std::memory_order_relaxed);
        if (entry < lease.core->memory().index().n_entries)
            got[i] = {entry, pool::entry_word(generation, pool::EntryState::reserved)};
    }
    std::vector<bool> pinned;
    pool::Client::Places places;
    lease.held->places.reserve(lease.held->places.size() + count);
    const bool room = lease.core->pin_each(got, places, pinned);
    asking.take();
    for (const pool::Place& place : places)
        lease.held->places.push_back({place.at, which[from + place.first], which[from + place.last]});
    for (std::uint32_t i = 0; i < count; ++i) {
        const std::uint32_t key = which[from + i];
        if (pinned[i]) {
            check_chunk(client, lease, got[i].entry);
            lease.looks[key] = got[i];
        } else if (lease.statuses[key] == Status::reserved)  // what is not pinned the server takes back
            // Whose parent has just been given up goes with it.
            lease.statuses[key] = !room ? Status::busy : keys.space().chained ? Status::orphan : Status::lost;
    }
}

// The entries of the lease that are to be committed, or aborted.
std::vector<std::uint32_t> reserved_keys(const StoreLease& lease) {
    std::vector<std::uint32_t> keys;
    for (std::uint32_t i = 0; i < lease.statuses.size(); ++i)
        if (lease.looks[i].entry != pool::kNoEntry) keys.push_back(i);
    return keys;
}

nb::list slots_of(nb::handle self) {
    auto& lease = nb::cast<StoreLease&>(self);
    if (lease.ended)
        raise("LeaseExpiredError", "these chunks have been given back: fill their slots before the commit");
    check_has_part(lease);
    check_fills(lease);
    nb::list slots;
    for (const std::uint32_t i : reserved_keys(lease)) slots.append(make_slot(nb::borrow(self), lease, i, true));
    return slots;
}

void seal_arrays(StoreLease& lease) {
    for (const nb::object& reference : lease.arrays) {
        const nb::object array = reference();
        if (!array.is_none()) array.attr("flags").attr("writeable") = false;
    }
    lease.arrays.clear();
}

bool leave(nb::handle self, nb::handle error_type, nb::handle, nb::handle) {
    const auto& lease = nb::cast<StoreLease&>(self);
    if (lease.ended) return false;
    if (error_type.is_none()) {
        try {
            commit_store(lease.client, self);
            return false;
        } catch (nb::python_error&) {
            // The others of a group wait for nothing.
            if (!lease.exports() || lease.ended) throw;
            try {
                abort_store(lease.client, self);
            } catch (nb::python_error& error) {
                error.discard_as_unraisable("abort_store");
            }
            throw;
        }
    }
    // The exception that is on its way is what the caller is to see.
    try {
        abort_store(lease.client, self);
    } catch (nb::python_error& error) {
        if (interrupts(error)) throw;
    }
    return false;
}

PyObject* call_export(PyObject* self, PyObject*) {
    return translated<PyObject*>(nullptr, [&] { return export_lease<StoreLease>(self).release().ptr(); });
}
PyObject* call_missing_parts_of(PyObject* self, PyObject* index) {
    return translated<PyObject*>(nullptr, [&] {
        const nb::handle handle(self);
        const auto& lease = nb::cast<const StoreLease&>(handle);
        const auto last = static_cast<std::int64_t>(lease.looks.size()) - 1;
        return missing_of(lease, static_cast<std::uint32_t>(parse_int("index", index, 0, last))).release().ptr();
    });
}
PyMethodDef methods[] = {
    {"export", &call_export, METH_NOARGS,
     R"(export($self)
--

A token with which others join this lease, to fill its chunks: `PoolClient.join`. This one fills none then.

>>> client.clear()
>>> with client.store(keys) as lease, client.join(lease.export()) as joined:
...     lease.missing_parts, len(joined.slots)
((0,), 2)
)"},
    {"missing_parts_of", &call_missing_parts_of, METH_O,
     R"(missing_parts_of($self, index, /)
--

The parts of one chunk that are not committed. `missing_parts` are those of any chunk.

Raises LeaseExpiredError, which says who has given the chunk up.

>>> client.clear()
>>> with client.store(keys) as lease, client.join(lease.export()) as joined:
...     lease.missing_parts_of(1)
(0,)
)"},
};

}  // namespace

void describe_request(Asking& asking, const Keys& keys, const pool::Digest* parent, std::uint64_t chunk_bytes) {
    auto& slot = asking.slot();
    const std::uint32_t parts = keys.space().shards;
    slot.length.store(static_cast<std::uint32_t>(pool::block_bytes(chunk_bytes, parts)), std::memory_order_relaxed);
    slot.parts.store(parts, std::memory_order_relaxed);
    slot.chained.store(keys.space().chained ? 1 : 0, std::memory_order_relaxed);
    slot.has_parent.store(parent != nullptr ? 1 : 0, std::memory_order_relaxed);
    if (parent != nullptr)
        for (std::size_t k = 0; k < 4; ++k) slot.parent[k].store(parent->words[k], std::memory_order_relaxed);
    slot.tenant.store(keys.space().tenant.words[0], std::memory_order_relaxed);
    slot.space.store(keys.space().digest.words[0], std::memory_order_relaxed);
}

nb::object prepare_store(nb::handle self, nb::handle keys_object, nb::handle parent_object) {
    auto& client = nb::cast<PoolClient&>(self);
    pool::Client& core = client.usable();
    const Keys& keys = keys_of("keys", keys_object);
    const auto digests = keys.digests();
    const pool::Digest* parent = keys.parent();
    if (!parent_object.is_none()) parent = keys_of("parent", parent_object).last();
    auto made = std::make_unique<StoreLease>(self, nb::borrow(keys_object), client.parts_of(keys));
    made->make_room(digests.size());
    std::vector<std::uint32_t> missing;
    struct Held {  // what is there already, so that it stays while its children are reserved
        pool::Client& core;
        pool::Client::Places places;
        ~Held() { core.unpin(places); }
    } held{core, {}};
    if (keys.space().chained) {
        std::vector<Look> looks;
        Status stopped{};
        core.find_leading(digests, looks, stopped);
        const std::uint32_t there = core.pin(looks, held.places).count;
        for (std::uint32_t i = 0; i < there; ++i) made->statuses[i] = Status::cached;
        for (auto i = there; i < digests.size(); ++i) missing.push_back(i);
        if (there != 0) {
            parent = &digests[there - 1];
            core.touch(looks[there - 1].entry, there - 1, true);
        }
    } else {
        std::vector<Look> looks;
        std::vector<Status> statuses;
        core.find_each(digests, looks, statuses);
        for (std::uint32_t i = 0; i < digests.size(); ++i) {
            if (statuses[i] == Status::hit)
                made->statuses[i] = Status::cached;
            else
                missing.push_back(i);
        }
        parent = nullptr;
    }
    // What could not be pinned is not asked for.
    if (const std::uint32_t room = core.room(); missing.size() > room) {
        for (std::size_t i = room; i < missing.size(); ++i) made->statuses[missing[i]] = Status::busy;
        missing.resize(room);
    }
    if (!missing.empty()) describe_space(client, made->core, keys.space(), missing.size());
    for (std::size_t from = 0; from < missing.size(); from += pool::kBatch) {
        const std::size_t count = std::min<std::size_t>(pool::kBatch, missing.size() - from);
        if (from != 0 && keys.space().chained) parent = &digests[missing[from] - 1];
        reserve(client, *made, keys, missing, from, count, parent);
    }
    return nb::cast(made.release(), nb::rv_policy::take_ownership);
}

nb::object commit_store(nb::handle self, nb::handle object) {
    StoreLease& lease = open_lease(self, object, "commit_store");
    auto& client = nb::cast<PoolClient&>(self);
    pool::Client& core = *lease.core;
    // What is there now is what is summed and stored: nothing more is filled from here on.
    struct Committing {
        StoreLease& lease;
        ~Committing() { lease.committing = false; }
    } committing{lease};
    lease.committing = true;
    await_gathers(client, lease);
    if (lease.committed) return status_list(lease.statuses);
    seal_arrays(lease);
    const std::vector<std::uint32_t> keys = reserved_keys(lease);
    const bool checked = core.memory().header().checksums != 0;
    std::vector<std::uint32_t> checksums(keys.size());
    if (checked && !lease.exports()) {
        const Unlocked unlocked;
        for (std::size_t i = 0; i < keys.size(); ++i) {
            const std::uint32_t entry = lease.looks[keys[i]].entry;
            if (lease.gathers.states[keys[i]] == Gathers::State::done && !lease.gathers.shown[keys[i]]) {
                checksums[i] = lease.gathers.checksums[keys[i]];
                continue;
            }
            checksums[i] =
                pool::checksum_of({core.memory().data() + core.offset(entry, lease.part), lease.chunk_bytes});
        }
    }
    platform::Native::reached(FaultPoint::pool_filled);
    std::size_t lost = 0;
    if (lease.exports() && !keys.empty()) {
        if (!lease.exported)
            raise("PoolError",
                  client.context() + ": commit_store: these chunks have " + std::to_string(lease.part.of) +
                      " parts, and nobody can fill them before the lease is exported: join(lease.export(), "
                      "part), or abort_store");
        await_parts(client, lease);
        for (const std::uint32_t key : keys) {
            const bool there = core.memory().index().is_unchanged(
                {lease.looks[key].entry,
                 pool::entry_word(pool::generation_of(lease.looks[key].word), pool::EntryState::present)});
            lease.statuses[key] = there ? Status::committed : Status::lost;
            lost += there ? 0 : 1;
        }
    }
    for (std::size_t from = 0; !lease.exports() && from < keys.size(); from += pool::kBatch) {
        const auto count = static_cast<std::uint32_t>(std::min<std::size_t>(pool::kBatch, keys.size() - from));
        Asking asking(client, lease.core, "commit_store", count, client.timeout_ns);
        asking.slot().checked.store(checked ? 1 : 0, std::memory_order_relaxed);
        asking.slot().parts.store(lease.joined ? lease.part.number : pool::kNoPart, std::memory_order_relaxed);
        for (std::uint32_t i = 0; i < count; ++i) {
            const Look& look = lease.looks[keys[from + i]];
            asking.item(i).entry.store(look.entry, std::memory_order_relaxed);
            asking.item(i).generation.store(pool::generation_of(look.word), std::memory_order_relaxed);
            asking.item(i).checksum.store(checksums[from + i], std::memory_order_relaxed);
        }
        asking.ask(pool::Ask::commit);
        for (std::uint32_t i = 0; i < count; ++i) {
            lease.statuses[keys[from + i]] = asking.status(i);
            if (asking.status(i) != Status::committed) ++lost;
        }
        asking.take();
    }
    std::string why;
    for (const std::uint32_t key : keys)
        if (lease.statuses[key] == Status::lost && why.empty()) why = why_given_up(core, lease.looks[key]);
    lease.committed = true;
    lease.end();
    if (lost == 0) return status_list(lease.statuses);
    // What hangs from another client's store goes with it; anything else should not have been lost.
    const bool hangs = std::ranges::any_of(lease.statuses, [](Status status) {
        return status == Status::pending || status == Status::own || status == Status::orphan;
    });
    for (const std::uint32_t i : keys)
        if (hangs && lease.statuses[i] == Status::lost) lease.statuses[i] = Status::orphan;
    if (!hangs)
        raise("LeaseExpiredError", client.context() + ": commit_store: " + std::to_string(lost) + " of " +
                                       std::to_string(keys.size()) + " reservations were given up before (" + why +
                                       "); these chunks are not stored");
    return status_list(lease.statuses);
}

void abort_store(nb::handle self, nb::handle object) {
    StoreLease& lease = open_lease(self, object, "abort_store");
    if (lease.committed) return;
    auto& client = nb::cast<PoolClient&>(self);
    seal_arrays(lease);
    const std::vector<std::uint32_t> keys = reserved_keys(lease);
    lease.aborted = true;
    struct GivingBack {
        StoreLease& lease;
        ~GivingBack() { lease.end(); }  // what is not pinned any more the server takes back by itself, too
    } end{lease};
    for (std::size_t from = 0; from < keys.size(); from += pool::kBatch) {
        const auto count = static_cast<std::uint32_t>(std::min<std::size_t>(pool::kBatch, keys.size() - from));
        Asking asking(client, lease.core, "abort_store", count, client.timeout_ns);
        for (std::uint32_t i = 0; i < count; ++i) {
            const Look& look = lease.looks[keys[from + i]];
            asking.item(i).entry.store(look.entry, std::memory_order_relaxed);
            asking.item(i).generation.store(pool::generation_of(look.word), std::memory_order_relaxed);
        }
        asking.ask(pool::Ask::abort);
        asking.take();
    }
}

void add_store_types(nb::module_& module) {
    Collected<StoreLease> collected;
    nb::class_<StoreLease> type(module, "StoreLease", nb::type_slots(collected.slots),
                                R"(Chunks that are reserved to be filled; committed or aborted, it is over.

`statuses` says what became of each key; `slots` are those that are this lease's to fill. In a `with` block its end
commits, or aborts if an exception leaves it.

>>> client.clear()
>>> with client.store(keys) as lease:
...     [status.name for status in lease.statuses]
['RESERVED', 'RESERVED']
)");
    type.def_prop_ro("keys", [](const StoreLease& lease) { return lease.keys; })
        .def_prop_ro("statuses", [](const StoreLease& lease) { return status_list(lease.statuses); })
        .def_prop_ro("slots", &slots_of)
        .def_prop_ro("missing_parts", [](const StoreLease& lease) { return missing_of(lease, std::nullopt); })
        .def_prop_ro("ended", [](const StoreLease& lease) { return lease.ended; })
        .def("__enter__", [](nb::handle self) { return nb::borrow(self); })
        .def("__exit__", &leave, nb::arg().none(), nb::arg().none(), nb::arg().none());
    add_methods(type, methods, std::size(methods));
}

}  // namespace ringcast::bindings
