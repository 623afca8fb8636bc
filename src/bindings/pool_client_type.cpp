// The Python type PoolClient.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <tuple>

#include "arguments.hpp"
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
             bool verify) {
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
}

nb::object lookup(PoolClient& client, nb::handle keys_object, bool touch) {
    pool::Client& core = client.usable();
    const auto keys = keys_of("keys", keys_object).digests();
    const std::uint32_t n = core.lookup(keys);
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
    PyStructSequence_SetItem(result.ptr(), 1, PyLong_FromUnsignedLong(n));
    return result;
}

void clear(PoolClient& client, nb::handle space) {
    client.usable();
    Asking asking(client, "clear", 0, client.timeout_ns);
    asking.slot().has_parent.store(space.is_none() ? 0 : 1, std::memory_order_relaxed);
    if (!space.is_none()) asking.slot().space.store(read_space(space)->digest.words[0], std::memory_order_relaxed);
    asking.ask(pool::Ask::clear);
    asking.take();
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

PyStructSequence_Field found_fields[] = {{"memory", "leading keys whose chunks are in the pool's memory"},
                                         {"total", "leading keys whose chunks are in memory or in a tier"},
                                         {nullptr, nullptr}};
PyStructSequence_Desc found_description{"ringcast.pool.Found", "What a lookup found.", found_fields, 2};

}  // namespace

nb::list status_list(const std::vector<pool::Status>& statuses) {
    nb::list list;
    for (const pool::Status status : statuses)
        list.append(nb::handle(PyTuple_GET_ITEM(status_members, static_cast<Py_ssize_t>(status))));
    return list;
}

void bind_pool_client(nb::module_& module) {
    found_type = PyStructSequence_NewType(&found_description);
    if (found_type == nullptr) throw nb::python_error();
    module.attr("Found") = nb::handle(reinterpret_cast<PyObject*>(found_type));
    // In the order of the core's own statuses.
    module.def("set_pool_statuses", [](nb::tuple members) { status_members = members.release().ptr(); }, "members"_a);
    add_retrieve_types(module);
    add_store_types(module);
    add_slot_type(module);
    nb::class_<PoolClient>(module, "PoolClient", nb::dynamic_attr(), nb::is_weak_referenceable(), "A pool's client.")
        .def(nb::init<>())
        .def("_connect", &connect, "name"_a, "release"_a, "worker_id"_a, "chunk_bytes"_a, "waiting"_a, "timeout_ns"_a,
             "regain_ns"_a, "verify"_a)
        .def("lookup", &lookup, "keys"_a, nb::kw_only(), "touch"_a = false)
        .def("prepare_retrieve", &prepare_retrieve, "keys"_a, "wait"_a = nb::none(), "leading"_a = true)
        .def("retrieve", &prepare_retrieve, "keys"_a, "wait"_a = nb::none(), "leading"_a = true)
        .def("commit_retrieve", &commit_retrieve, "lease"_a)
        .def("prepare_store", &prepare_store, "keys"_a, "parent"_a = nb::none())
        .def("store", &prepare_store, "keys"_a, "parent"_a = nb::none())
        .def("commit_store", &commit_store, "lease"_a)
        .def("abort_store", &abort_store, "lease"_a)
        .def("clear", &clear, "space"_a = nb::none())
        .def("close",
             [](PoolClient& client) {
                 if (client.core) client.core->close();
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
