// The Python type PoolServer: a native thread that needs no interpreter.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unordered_map.h>
#include <nanobind/stl/vector.h>

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

// (name, FileTier or None, threads) of each tier.
std::vector<pool::TierDriver::Options> tiers_of(const nb::list& given) {
    std::vector<pool::TierDriver::Options> tiers;
    for (nb::handle one : given) {
        const auto [name, native, threads] = nb::cast<std::tuple<std::string, nb::object, std::uint32_t>>(one);
        tiers.push_back({name, native.is_none() ? nullptr : nb::cast<pool::FileTier*>(native), threads});
    }
    return tiers;
}

// As many entries as the tiers have slots, beside those that the memory needs.
pool::PoolGeometry planned(std::uint64_t capacity, std::uint32_t seats, std::uint32_t pins, std::uint32_t entries,
                           std::span<const pool::TierDriver::Options> tiers) {
    const pool::PoolGeometry plan = pool::plan_pool(capacity, seats, pins, entries);
    std::uint64_t slots = 0;
    for (const auto& tier : tiers)
        if (tier.native != nullptr) slots += tier.native->slots();
    if (entries != 0 || slots == 0) return plan;
    return pool::plan_pool(
        capacity, seats, pins,
        static_cast<std::uint32_t>(std::min<std::uint64_t>(plan.entries + slots, pool::kMaxEntries)));
}

std::shared_ptr<pool::Server> serve(std::string name, std::string user_name, std::string release,
                                    std::uint64_t capacity, std::uint32_t seats, std::uint32_t pins,
                                    std::uint32_t entries, bool kept, bool checksums, int policy,
                                    pool::Keeper::Quotas quotas,
                                    std::tuple<std::int64_t, std::int64_t, std::int64_t, bool> waiting,
                                    const nb::list& tiers, std::int64_t tier_patience_ns,
                                    const nb::callable& progress) {
    const auto [spin_ns, yield_ns, park_ns, adaptive] = waiting;
    const auto all_tiers = tiers_of(tiers);
    std::optional<Unlocked> unlocked;
    const pool::Server::Options options{.memory = {.name = std::move(name),
                                                   .user_name = std::move(user_name),
                                                   .release = std::move(release),
                                                   .geometry = planned(capacity, seats, pins, entries, all_tiers),
                                                   .kept = kept,
                                                   .checksums = checksums,
                                                   .progress = told_to(progress, unlocked)},
                                        .policy = static_cast<pool::PolicyKind>(policy),
                                        .quotas = std::move(quotas),
                                        .waiting = {spin_ns, yield_ns, park_ns, adaptive},
                                        .tiers = all_tiers,
                                        .tier_patience_ns = tier_patience_ns};
    unlocked.emplace();
    return std::make_shared<pool::Server>(options);
}

}  // namespace

std::shared_ptr<const pool::PoolMemory> memory_served_by(const pool::Server& server) {
    if (server.in_forked_child())
        raise("ForkedError", "pool '" + server.name() +
                                 "': its server belongs to a parent process; connect to it with " +
                                 "PoolClient.connect");
    auto memory = server.memory();
    if (memory == nullptr) raise("PoolClosedError", "pool '" + server.name() + "': its server was closed");
    return memory;
}

namespace {

void prefault(const pool::Server& server, const nb::callable& progress) {
    const auto memory = memory_served_by(server);  // mapped until the end, whoever closes the server meanwhile
    std::optional<Unlocked> unlocked{std::in_place};
    memory->prefault(told_to(progress, unlocked));
}

nb::dict described_by_its_server(const pool::Server& server) { return described(*memory_served_by(server)); }

// Of each tier how often something went wrong, and what did last.
std::vector<std::pair<std::uint64_t, std::string>> errors_of_tiers(pool::Server& server) {
    std::vector<std::pair<std::uint64_t, std::string>> all;
    const auto memory = server.memory();
    if (memory == nullptr) return all;
    for (const std::string& error : server.tiers().errors()) {
        const pool::TierWords& words = memory->words().tiers[all.size()];
        std::uint64_t times = 0;
        for (const auto* figure : {&words.failed, &words.corrupt, &words.late})
            times += figure->load(std::memory_order_relaxed);
        all.emplace_back(times, error);
    }
    return all;
}

}  // namespace

void bind_pool_server(nb::module_& module) {
    nb::class_<pool::Server>(module, "PoolServer", "A pool's server, running.")
        .def(nb::new_(&serve), "name"_a, "user_name"_a, "release"_a, "capacity"_a, "seats"_a, "pins"_a, "entries"_a,
             "kept"_a, "checksums"_a, "policy"_a, "quotas"_a, "waiting"_a, "tiers"_a, "tier_patience_ns"_a,
             "progress"_a)
        .def("prefault", &prefault, "progress"_a)
        .def("close",
             [](pool::Server& server) {
                 const Unlocked unlocked;
                 server.close();
             })
        .def_prop_ro("closed", &pool::Server::closed)
        .def_prop_ro("abandoned", &pool::Server::abandoned)
        .def("tier_errors", &errors_of_tiers)
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
