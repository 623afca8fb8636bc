// The Python type PoolServer: a native thread that needs no interpreter; and looks at pools from outside.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unordered_map.h>

#include <algorithm>
#include <tuple>

#include "locks.hpp"
#include "modules.hpp"
#include "platform/process.hpp"
#include "pool/server.hpp"
#include "py_errors.hpp"
#include "sweep.hpp"
#include "unlocked.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ringcast::bindings {

namespace {

using pool::PoolMemory;

std::shared_ptr<pool::Server> serve(std::string name, std::string user_name, std::string release,
                                    std::uint64_t capacity, std::uint32_t seats, std::uint32_t pins,
                                    std::uint32_t entries, bool kept, bool checksums, int policy,
                                    pool::Keeper::Quotas quotas,
                                    std::tuple<std::int64_t, std::int64_t, std::int64_t, bool> waiting) {
    const auto [spin_ns, yield_ns, park_ns, adaptive] = waiting;
    const pool::Server::Options options{.memory = {.name = std::move(name),
                                                   .user_name = std::move(user_name),
                                                   .release = std::move(release),
                                                   .geometry = pool::plan_pool(capacity, seats, pins, entries),
                                                   .kept = kept,
                                                   .checksums = checksums},
                                        .policy = static_cast<pool::PolicyKind>(policy),
                                        .quotas = std::move(quotas),
                                        .waiting = {spin_ns, yield_ns, park_ns, adaptive}};
    const Unlocked unlocked;
    return std::make_shared<pool::Server>(options);
}

nb::dict described(const PoolMemory& memory) {
    const auto& header = memory.header();
    const auto& words = memory.words();
    const auto of = [](const auto& word) { return word.load(std::memory_order_relaxed); };
    nb::dict all;
    all["name"] = ringcast::text_of(header.user_name, sizeof header.user_name);
    all["segment"] = memory.name();
    all["epoch"] = of(words.epoch);
    all["capacity"] = header.capacity;
    all["entries"] = header.n_entries;
    all["kept"] = header.kept != 0;
    all["checksums"] = header.checksums != 0;
    all["created_at_ns"] = header.created_at_ns;
    all["closed"] = of(words.life) == pool::PoolLife::closed;
    all["server_pid"] = of(words.pid);
    const bool alive = memory.server_alive();
    const bool stopped =
        alive && platform::process_state(of(words.pid), of(words.pid_namespace)) == platform::ProcessState::stopped;
    all["server"] = stopped ? "stopped" : alive ? "living" : "gone";
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
    nb::list clients;
    for (std::uint32_t i = 0; i < header.n_seats; ++i) {
        const auto& seat = memory.seat(i);
        const auto state = pool::seat_state(seat.state.load(std::memory_order_acquire));
        if (state == pool::PoolSeatState::vacant) continue;
        const std::uint32_t used = std::min(of(seat.pins_used), header.n_pins);
        std::uint32_t pins = 0;
        for (std::uint32_t k = 0; k < used; ++k) pins += of(seat.pins[k]) != 0 ? 1 : 0;
        nb::dict client;
        client["seat"] = i;
        client["forked"] = state == pool::PoolSeatState::inherited;
        client["worker_id"] = ringcast::text_of(seat.worker_id, sizeof seat.worker_id);
        client["pid"] = of(seat.pid);
        client["alive"] = memory.locks().is_held_by_another(seat_lock(i));
        client["since_ns"] = of(seat.since_ns);
        client["pins"] = pins;
        client["lookups"] = of(seat.counters.lookups);
        client["keys_looked_up"] = of(seat.counters.keys_looked_up);
        client["keys_found"] = of(seat.counters.keys_found);
        client["retrieves"] = of(seat.counters.retrieves);
        client["keys_retrieved"] = of(seat.counters.keys_retrieved);
        client["hits"] = of(seat.counters.hits);
        clients.append(client);
    }
    all["clients"] = clients;
    return all;
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
             "kept"_a, "checksums"_a, "policy"_a, "quotas"_a, "waiting"_a)
        .def("close",
             [](pool::Server& server) {
                 const Unlocked unlocked;
                 server.close();
             })
        .def_prop_ro("closed", &pool::Server::closed)
        .def_prop_ro("adopted", &pool::Server::adopted)
        .def("described", &described_by_its_server);
    nb::class_<PoolMemory>(module, "PoolMemory", "A pool's memory, looked at from outside.")
        .def(nb::new_([](const std::string& name, const std::string& release) {
                 std::unique_ptr<PoolMemory> memory;
                 const Unlocked unlocked;
                 memory = PoolMemory::attach(name, release);
                 return std::shared_ptr<PoolMemory>(std::move(memory));
             }),
             "name"_a, "release"_a)
        .def("described", &described);
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
