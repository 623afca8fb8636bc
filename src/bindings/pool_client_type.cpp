// The Python type PoolClient.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <tuple>

#include "arguments.hpp"
#include "methods.hpp"
#include "modules.hpp"
#include "platform/process.hpp"
#include "pool_client.hpp"
#include "py_errors.hpp"
#include "unlocked.hpp"

namespace ringcast::bindings {

using namespace nb::literals;

namespace {

using StrategyFields = std::tuple<std::int64_t, std::int64_t, std::int64_t, bool>;

PyTypeObject* found_type = nullptr;  // set at import, never changed
PyObject* status_members = nullptr;  // set when ringcast.pool is imported

void connect(PoolClient& client, const std::string& name, const std::string& release, const std::string& worker_id,
             std::uint32_t chunk_bytes, StrategyFields waiting, std::int64_t timeout_ns, std::int64_t regain_ns,
             bool verify, std::uint32_t shards) {
    const auto [spin_ns, yield_ns, park_ns, adaptive] = waiting;
    const pool::Client::Options options{
        .name = name, .release = release, .worker_id = worker_id, .waiting = {spin_ns, yield_ns, park_ns, adaptive}};
    std::shared_ptr<pool::Client> core;
    {
        const Unlocked unlocked;
        core = pool::Client::connect(options, timeout_ns);
    }
    if (chunk_bytes > core->memory().header().capacity)
        raise("PoolError", core->memory().label() + " has " + std::to_string(core->memory().header().capacity) +
                               " bytes, less than one chunk of this layout, " + std::to_string(chunk_bytes) +
                               ": start its server with a larger --size");
    client.core = std::move(core);
    client.worker_id = worker_id;
    client.chunk_bytes = chunk_bytes;
    client.timeout_ns = timeout_ns;
    client.regain_ns = regain_ns;
    client.verify = verify;
    client.shards = shards;
}

nb::object look_up(PoolClient& client, nb::handle keys_object, bool touch) {
    pool::Client& core = client.usable();
    const auto keys = keys_of("keys", keys_object).digests();
    const auto [n, total] = core.lookup(keys);
    auto& counters = core.memory().own_seat().counters;
    const auto add = [](std::atomic<std::uint64_t>& count, std::uint64_t by) {
        count.store(count.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
    };
    add(counters.lookups, 1);
    add(counters.keys_looked_up, keys.size());
    add(counters.keys_found, n);
    if (touch && n != 0)
        if (const auto found = core.memory().index().find(keys[n - 1]); found.entry != pool::kNoEntry)
            core.touch(found.entry, n - 1);
    const nb::object result = owned(PyStructSequence_New(found_type));
    PyStructSequence_SetItem(result.ptr(), 0, PyLong_FromUnsignedLong(n));
    PyStructSequence_SetItem(result.ptr(), 1, PyLong_FromUnsignedLong(total));
    return result;
}

// What is said of an entry that has just become another's only moves that one: see [touch].
void touch(PoolClient& client, nb::handle keys_object) {
    pool::Client& core = client.usable();
    const Keys& keys = keys_of("keys", keys_object);
    const auto digests = keys.digests();
    if (!keys.space().chained) {
        for (const pool::Digest& key : digests)
            if (const auto found = core.memory().index().find(key); found.entry != pool::kNoEntry)
                core.touch(found.entry, 0);
        return;
    }
    const std::uint32_t n = core.lookup(digests).memory;
    if (n == 0) return;
    if (const auto found = core.memory().index().find(digests[n - 1]); found.entry != pool::kNoEntry)
        core.touch(found.entry, n - 1);
}

void clear(PoolClient& client, nb::handle space) {
    client.usable();
    Asking asking(client, client.core, "clear", 0, client.timeout_ns);
    asking.slot().has_parent.store(space.is_none() ? 0 : 1, std::memory_order_relaxed);
    if (!space.is_none()) asking.slot().space.store(read_space(space)->digest.words[0], std::memory_order_relaxed);
    asking.ask(pool::Ask::clear);
    const bool certain = asking.refusal() == pool::Refusal::none;
    asking.take();
    if (!certain)
        raise("PoolError", client.context() +
                               ": clear: memory is cleared and nothing old is found any more, but a tier could not "
                               "promise it: its chunks may be there again after a restart of the server. See "
                               "`ringcast pool stat`, and try again");
}

// (state of the server, its pid, how many servers there have been).
nb::tuple health(const PoolClient& client) {
    const pool::Client& core = client.usable();
    const auto& words = core.memory().words();
    const std::uint32_t pid = words.pid.load(std::memory_order_relaxed);
    const char* state = "living";
    if (words.life.load(std::memory_order_relaxed) == pool::PoolLife::closed || !core.memory().server_alive())
        state = "gone";
    else if (platform::process_state(pid, words.pid_namespace.load(std::memory_order_relaxed)) ==
             platform::ProcessState::stopped)
        state = "stopped";
    return nb::make_tuple(state, pid, words.epoch.load(std::memory_order_relaxed));
}

// Runs the body of a call; null with a Python exception set if it throws.
template <class Body>
PyObject* called(PyObject* self, Body&& body) noexcept {
    return translated<PyObject*>(nullptr, [&]() -> PyObject* {
        if (!nb::inst_ready(self)) raise("PoolClosedError", "this pool client was not initialised");
        auto& client = *nb::inst_ptr<PoolClient>(self);
        try {
            return nb::object(body(client)).release().ptr();
        } catch (const Error& error) {
            raise(error, client.context());
        }
    });
}

nb::handle or_none(PyObject* value) { return value == nullptr ? nb::handle(Py_None) : nb::handle(value); }

template <class Lease>
nb::handle lease_of(const char* what, PyObject* object) {
    if (!nb::isinstance<Lease>(object))
        raise("ArgumentTypeError", std::string("lease must be a ") + what + ", not " + Py_TYPE(object)->tp_name);
    return object;
}

PyObject* call_lookup(PyObject* self, Arguments arguments, Py_ssize_t n, PyObject* keywords) {
    return called(self, [&](PoolClient& client) {
        const auto [keys, touch] = parse<2>("lookup", {"keys", "touch"}, 1, arguments, n, keywords);
        return look_up(client, keys, parse_flag("touch", touch));
    });
}
PyObject* call_touch(PyObject* self, Arguments arguments, Py_ssize_t n, PyObject* keywords) {
    return called(self, [&](PoolClient& client) -> nb::object {
        const auto [keys] = parse<1>("touch", {"keys"}, 1, arguments, n, keywords);
        touch(client, keys);
        return nb::none();
    });
}
PyObject* call_retrieve(PyObject* self, Arguments arguments, Py_ssize_t n, PyObject* keywords) {
    return called(self, [&](PoolClient&) {
        const auto [keys, wait, leading] =
            parse<3>("prepare_retrieve", {"keys", "wait", "leading"}, 1, arguments, n, keywords);
        return prepare_retrieve(self, keys, or_none(wait), or_none(leading));
    });
}
PyObject* call_commit_retrieve(PyObject* self, Arguments arguments, Py_ssize_t n, PyObject* keywords) {
    return called(self, [&](PoolClient&) -> nb::object {
        const auto [lease] = parse<1>("commit_retrieve", {"lease"}, 1, arguments, n, keywords);
        commit_retrieve(self, lease_of<RetrieveLease>("RetrieveLease", lease));
        return nb::none();
    });
}
PyObject* call_store(PyObject* self, Arguments arguments, Py_ssize_t n, PyObject* keywords) {
    return called(self, [&](PoolClient&) {
        const auto [keys, parent] = parse<2>("prepare_store", {"keys", "parent"}, 1, arguments, n, keywords);
        return prepare_store(self, keys, or_none(parent));
    });
}
PyObject* call_commit_store(PyObject* self, Arguments arguments, Py_ssize_t n, PyObject* keywords) {
    return called(self, [&](PoolClient&) {
        const auto [lease] = parse<1>("commit_store", {"lease"}, 1, arguments, n, keywords);
        return commit_store(self, lease_of<StoreLease>("StoreLease", lease));
    });
}
PyObject* call_abort_store(PyObject* self, Arguments arguments, Py_ssize_t n, PyObject* keywords) {
    return called(self, [&](PoolClient&) -> nb::object {
        const auto [lease] = parse<1>("abort_store", {"lease"}, 1, arguments, n, keywords);
        abort_store(self, lease_of<StoreLease>("StoreLease", lease));
        return nb::none();
    });
}
PyObject* call_clear(PyObject* self, Arguments arguments, Py_ssize_t n, PyObject* keywords) {
    return called(self, [&](PoolClient& client) -> nb::object {
        const auto [space] = parse<1>("clear", {"space"}, 0, arguments, n, keywords);
        clear(client, or_none(space));
        return nb::none();
    });
}
PyObject* call_prefetch(PyObject* self, Arguments arguments, Py_ssize_t n, PyObject* keywords) {
    return called(self, [&](PoolClient&) {
        const auto [keys, wait] = parse<2>("_prefetch", {"keys", "wait"}, 2, arguments, n, keywords);
        return prefetch(self, keys, wait);
    });
}
PyObject* call_close(PyObject* self, PyObject*) {
    return called(self, [&](PoolClient& client) -> nb::object {
        if (client.core) client.core->close();
        return nb::none();
    });
}

// What they do is said where ringcast.pool.PoolClient declares them.
PyMethodDef methods[] = {
    {"lookup", as_c_function(&call_lookup), kFastCall, "lookup($self, keys, touch=False)\n--\n\n"},
    {"touch", as_c_function(&call_touch), kFastCall, "touch($self, keys)\n--\n\n"},
    {"prepare_retrieve", as_c_function(&call_retrieve), kFastCall,
     "prepare_retrieve($self, keys, wait=None, leading=True)\n--\n\n"},
    {"retrieve", as_c_function(&call_retrieve), kFastCall, "retrieve($self, keys, wait=None, leading=True)\n--\n\n"},
    {"commit_retrieve", as_c_function(&call_commit_retrieve), kFastCall, "commit_retrieve($self, lease)\n--\n\n"},
    {"prepare_store", as_c_function(&call_store), kFastCall, "prepare_store($self, keys, parent=None)\n--\n\n"},
    {"store", as_c_function(&call_store), kFastCall, "store($self, keys, parent=None)\n--\n\n"},
    {"commit_store", as_c_function(&call_commit_store), kFastCall, "commit_store($self, lease)\n--\n\n"},
    {"abort_store", as_c_function(&call_abort_store), kFastCall, "abort_store($self, lease)\n--\n\n"},
    {"clear", as_c_function(&call_clear), kFastCall, "clear($self, space=None)\n--\n\n"},
    {"_prefetch", as_c_function(&call_prefetch), kFastCall, "_prefetch($self, keys, wait)\n--\n\n"},
    {"close", &call_close, METH_NOARGS, "close($self)\n--\n\n"},
};

PyStructSequence_Field found_fields[] = {{"memory", "leading keys whose chunks are in the pool's memory"},
                                         {"total", "leading keys whose chunks are in memory or in a tier"},
                                         {nullptr, nullptr}};
PyStructSequence_Desc found_description{"ringcast.pool.Found", "What a lookup found.", found_fields, 2};

}  // namespace

nb::list status_list(const std::vector<pool::Status>& statuses) {
    nb::list list;
    for (const pool::Status status : statuses)
        list.append(nb::handle(PyTuple_GET_ITEM(status_members, static_cast<Py_ssize_t>(status) - 1)));
    return list;
}

void bind_pool_client(nb::module_& module) {
    found_type = PyStructSequence_NewType(&found_description);
    if (found_type == nullptr) throw nb::python_error();
    module.attr("Found") = nb::handle(reinterpret_cast<PyObject*>(found_type));
    // In the order of the core's own statuses, without `none`.
    module.def("set_pool_statuses", [](nb::tuple members) { status_members = members.release().ptr(); }, "members"_a);
    add_retrieve_types(module);
    add_store_types(module);
    add_slot_type(module);
    add_copy_types(module);
    nb::class_<PoolClient> type(module, "PoolClient", nb::dynamic_attr(), nb::is_weak_referenceable(),
                                "A pool's client.");
    add_methods(type, methods, std::size(methods));
    type.def(nb::init<>())
        .def("_connect", &connect, "name"_a, "release"_a, "worker_id"_a, "chunk_bytes"_a, "waiting"_a, "timeout_ns"_a,
             "regain_ns"_a, "verify"_a, "shards"_a)
        .def("_join", &join, "keys"_a, "items"_a, "stores"_a, "leading"_a, "part"_a)
        .def_prop_ro("_identity",
                     [](const PoolClient& client) {
                         const auto& memory = client.usable().memory();
                         return nb::make_tuple(memory.name(), memory.header().epoch);
                     })
        .def_prop_ro("closed", [](const PoolClient& client) { return !client.core || client.core->closed(); })
        .def_prop_ro("_health", &health)
        .def_prop_ro("_context", &PoolClient::context)
        .def_prop_ro("held_pins", [](const PoolClient& client) { return client.usable().held(); })
        .def_prop_ro("_info", [](const PoolClient& client) {
            const auto& memory = client.usable().memory();
            return nb::make_tuple(ringcast::text_of(memory.header().user_name, sizeof memory.header().user_name),
                                  memory.name(), memory.header().capacity,
                                  memory.words().epoch.load(std::memory_order_relaxed));
        });
}

}  // namespace ringcast::bindings
