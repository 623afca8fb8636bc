// The Python type PoolServer: a native thread that needs no interpreter.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unordered_map.h>

#include <optional>
#include <tuple>
#include <utility>

#include "modules.hpp"
#include "pool/server.hpp"
#include "pool_memory.hpp"
#include "py_errors.hpp"
#include "sweep.hpp"
#include "unlocked.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ringcast::bindings {

namespace {

// Tells a Python function, called with (done, total), and hears signals: from native work without the interpreter's lock,
// which is taken for that long.
Progress told_to(const nb::callable& function, std::optional<Unlocked>& unlocked) {
    return [&function, &unlocked](std::uint64_t done, std::uint64_t total) {
        unlocked.reset();
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        function(done, total);
        unlocked.emplace();
    };
}

std::shared_ptr<pool::Server> serve(std::string name, std::string user_name, std::string release,
                                    std::uint64_t capacity, std::uint32_t seats, std::uint32_t pins,
                                    std::uint32_t entries, bool kept, bool checksums, int policy,
                                    pool::Keeper::Quotas quotas,
                                    std::tuple<std::int64_t, std::int64_t, std::int64_t, bool> waiting,
                                    const nb::callable& progress) {
    const auto [spin_ns, yield_ns, park_ns, adaptive] = waiting;
    std::optional<Unlocked> unlocked;
    const pool::Server::Options options{.memory = {.name = std::move(name),
                                                   .user_name = std::move(user_name),
                                                   .release = std::move(release),
                                                   .geometry = pool::plan_pool(capacity, seats, pins, entries),
                                                   .kept = kept,
                                                   .checksums = checksums,
                                                   .progress = told_to(progress, unlocked)},
                                        .policy = static_cast<pool::PolicyKind>(policy),
                                        .quotas = std::move(quotas),
                                        .waiting = {spin_ns, yield_ns, park_ns, adaptive}};
    unlocked.emplace();
    return std::make_shared<pool::Server>(options);
}

void prefault(const pool::Server& server, const nb::callable& progress) {
    if (server.in_forked_child()) raise("ForkedError", "this pool server belongs to a parent process");
    const auto memory = server.memory();  // mapped until the end, whoever closes the server meanwhile
    if (memory == nullptr) raise("PoolClosedError", "this pool server was closed");
    std::optional<Unlocked> unlocked{std::in_place};
    memory->prefault(told_to(progress, unlocked));
}

nb::dict described_by_its_server(const pool::Server& server) {
    if (server.in_forked_child()) raise("ForkedError", "this pool server belongs to a parent process");
    const auto memory = server.memory();
    if (memory == nullptr) raise("PoolClosedError", "this pool server was closed");
    return described(*memory);
}

}  // namespace

void bind_pool_server(nb::module_& module) {
    nb::class_<pool::Server>(module, "PoolServer", "A pool's server, running.")
        .def(nb::new_(&serve), "name"_a, "user_name"_a, "release"_a, "capacity"_a, "seats"_a, "pins"_a, "entries"_a,
             "kept"_a, "checksums"_a, "policy"_a, "quotas"_a, "waiting"_a, "progress"_a)
        .def("prefault", &prefault, "progress"_a)
        .def("close",
             [](pool::Server& server) {
                 const Unlocked unlocked;
                 server.close();
             })
        .def_prop_ro("closed", &pool::Server::closed)
        .def_prop_ro("adopted", &pool::Server::adopted)
        .def("described", &described_by_its_server);
    module.def(
        "remove_pool",
        [](const std::string& name) -> std::string {
            const Unlocked unlocked;
            const AreaKind* const kinds[] = {&pool::kPoolArea};
            const auto found = sweep_name(kinds, name, false, true);
            if (!found) return "";
            if (found->fate == Fate::removed) return "removed";
            if (found->fate == Fate::alive) return "alive";
            return found->reason.empty() ? "removing" : found->reason;
        },
        "name"_a);
    module.attr("MAX_POOL_SEATS") = pool::kMaxSeats;
}

}  // namespace ringcast::bindings
