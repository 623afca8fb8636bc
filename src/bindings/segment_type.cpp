#include "segment.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "counts.hpp"
#include "desk.hpp"
#include "modules.hpp"
#include "platform/probe.hpp"
#include "platform/process.hpp"
#include "pool/memory.hpp"
#include "ranks.hpp"
#include "sweep.hpp"
#include "unlocked.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ringcast::bindings {

void add_board_methods(nb::class_<Segment>& type);
void add_look_methods(nb::class_<Segment>& type);

namespace {

const char* state_name(SeatState state) {
    switch (state) {
        case SeatState::vacant:
            return "vacant";
        case SeatState::expected:
            return "expected";
        case SeatState::active:
            return "active";
        case SeatState::evicted:
        case SeatState::forgone:
            return "evicted";
        case SeatState::failed:
        case SeatState::lapsed:
            return "failed";
    }
    return "unknown";
}

const char* process_name(std::uint32_t pid, std::uint64_t pid_namespace, bool alive) {
    if (pid == 0) return "absent";  // nobody has come yet
    if (!alive) return "gone";
    switch (platform::process_state(pid, pid_namespace)) {
        case platform::ProcessState::running:
            return "running";
        case platform::ProcessState::stopped:
            return "stopped";
        case platform::ProcessState::unknown:
            break;
    }
    return "unknown";
}

nb::object known(const std::optional<WaitCounts>& counts) { return counts ? nb::object(as_dict(*counts)) : nb::none(); }

// A snapshot of each seat that is used, will be, or has views alive:
// (seat, rank, pid, state, alive, process, cursor, leased blocks, leased bytes, how its holder's waits have ended or None).
nb::list seats(const Segment& segment) {
    nb::list result;
    const auto& ring = segment.ring();
    for (std::uint32_t i = 0; i < ring.n_seats; ++i) {
        const NativeSeat& seat = ring.seats[i];
        const std::uint64_t word = seat.state.load(std::memory_order_acquire);
        const SeatState state = seat_state(word);
        std::uint64_t leased = seat.leased_blocks.load(std::memory_order_relaxed);
        if (state == SeatState::vacant && leased == 0) continue;
        // A lock that this very process holds through another descriptor counts, as it should.
        const bool alive = state != SeatState::expected && segment.locks().is_held_by_another(seat_lock(i));
        if ((state == SeatState::vacant || state == SeatState::forgone) && !alive)
            continue;  // its holder died with views, which count no more
        const std::uint32_t pid = state == SeatState::expected ? 0 : seat.pid.load(std::memory_order_relaxed);
        const auto* process = process_name(pid, seat.pid_namespace.load(std::memory_order_relaxed), alive);
        result.append(nb::make_tuple(i, seat.rank.load(std::memory_order_relaxed), pid, state_name(state), alive,
                                     process, seat.cursor.load(std::memory_order_acquire), leased,
                                     seat.leased_bytes.load(std::memory_order_relaxed), known(waits_of(seat, word))));
    }
    return result;
}

// (rank, messages that nobody has read for it) of each rank that a handle promised messages to.
nb::list missed(const Segment& segment) {
    nb::list result;
    const auto& ring = segment.ring();
    if (!segment.is_promised()) return result;
    const std::uint64_t head = ring.control->head.load(std::memory_order_relaxed);
    for (std::uint32_t i = 0; i < segment.geometry().n_reader; ++i)
        if (const std::uint32_t rank = segment.rank_of(i); rank != kNobody)
            result.append(nb::make_tuple(rank, missed_before(ring.seats[i], head)));
    return result;
}

// The four chunk states of slot `index`, from its sequence and the gating cursors, and the ranks that have read it.
nb::tuple slot_state(const Segment& segment, std::uint32_t index) {
    const auto& ring = segment.ring();
    if (index >= ring.depth)
        throw Error(ErrorCode::invalid_argument,
                    "slot " + std::to_string(index) + " does not exist: the ring has " + std::to_string(ring.depth));
    const std::uint64_t sequence = ring.slot(index).sequence.load(std::memory_order_acquire);
    nb::list done;
    if (sequence == 0) return nb::make_tuple("empty", done);
    bool all = true;
    for (std::uint32_t i = 0; i < ring.n_seats; ++i) {
        const NativeSeat& seat = ring.seats[i];
        if (!gates(seat.state.load(std::memory_order_acquire))) continue;
        if (seat.cursor.load(std::memory_order_acquire) >= sequence)
            done.append(seat.rank.load(std::memory_order_relaxed));
        else
            all = false;
    }
    return nb::make_tuple(all ? "read_by_all" : (done.size() == 0 ? "written" : "read_by_some"), done);
}

// Has the writer sent such, as a message or within one?
bool has_sent(const Segment& segment, Encoding encoding) {
    const std::uint32_t sent = segment.ring().control->encodings_sent.load(std::memory_order_relaxed);
    return (sent >> static_cast<unsigned>(encoding) & 1) != 0;
}

const char* fate_name(Fate fate) {
    switch (fate) {
        case Fate::alive:
            return "alive";
        case Fate::dead:
            return "dead";
        case Fate::removed:
            return "removed";
        case Fate::removing:
            return "removing";
        case Fate::kept:
            return "kept";
        case Fate::skipped:
            return "skipped";
    }
    return "unknown";
}

// (segment, user's name, creator's pid, committed bytes, fate, reason, "queue", "link" or "pool" if it is one) of each.
nb::list swept(const std::string& prefix, const std::string& suffix, bool dry_run, const std::string& spared,
               bool others_only) {
    std::vector<Remains> found;
    {
        const Unlocked unlocked;
        const AreaKind* const kinds[] = {&kQueueArea, &kDeskArea, &pool::kPoolArea};
        found = sweep(kinds, prefix, suffix, dry_run, spared, others_only ? Whose::others : Whose::anyone);
    }
    nb::list result;
    for (const auto& one : found)
        result.append(nb::make_tuple(one.name, one.user_name, one.creator_pid, one.committed_bytes, fate_name(one.fate),
                                     one.reason, one.kind != nullptr ? one.kind->noun : ""));
    return result;
}

// (feature, needed, failure) of each; no failure is an empty text.
nb::list probe_features(const std::string& name) {
    nb::list result;
    for (const auto& probe : platform::probe_features(name))
        result.append(nb::make_tuple(probe.feature, probe.needed, probe.failure));
    return result;
}

}  // namespace

void bind_segment(nb::module_& module) {
    auto type = nb::class_<Segment>(module, "Segment", "A queue's shared memory, mapped.");
    type.def_static(
            "create",
            [](std::string name, std::string user_name, std::string release, std::uint32_t n_reader,
               std::vector<std::uint32_t> ranks, std::uint64_t max_chunk_bytes, std::uint32_t max_chunks,
               std::uint64_t max_bytes, std::uint32_t max_leases,
               std::optional<std::tuple<std::string, std::uint32_t>> source, std::uint64_t data_budget) {
                const auto n_local = static_cast<std::uint32_t>(ranks.size());
                const std::uint64_t page = platform::page_bytes();
                if (max_chunk_bytes == 0)
                    max_chunk_bytes = default_chunk_bytes(n_reader, n_local, max_chunks, max_bytes, max_leases, page);
                Segment::Request request{.name = std::move(name),
                                         .user_name = std::move(user_name),
                                         .release = std::move(release),
                                         .geometry = plan_geometry(n_reader, n_local, max_chunk_bytes, max_chunks,
                                                                   max_bytes, max_leases, page),
                                         .ranks = std::move(ranks),
                                         .source = std::nullopt};
                if (data_budget != 0) {
                    request.geometry.data_budget = round_up(data_budget, page);
                    derive_data(request.geometry, page);
                }
                if (source) request.source = Source{std::get<0>(*source), std::get<1>(*source)};
                const Unlocked unlocked;
                return Segment::create(request);
            },
            "name"_a, "user_name"_a, "release"_a, "n_reader"_a, "ranks"_a, "max_chunk_bytes"_a, "max_chunks"_a,
            "max_bytes"_a, "max_leases"_a, "source"_a = nb::none(), "data_budget"_a = 0)
        .def_static(
            "attach",
            [](const std::string& name, const std::string& release, bool observe, bool zero_copy) {
                const Unlocked unlocked;
                const Access access = observe ? Access::observe : zero_copy ? Access::copy : Access::read;
                return Segment::attach(name, access, release);
            },
            "name"_a, "release"_a, "observe"_a = false, "zero_copy"_a = false)
        .def_prop_ro("name", &Segment::name)
        .def_prop_ro("user_name",
                     [](const Segment& s) -> std::optional<std::string> {
                         // A relay has that of the queue that it brings here, whose name it is not.
                         if (!s.named() && !s.is_relay()) return std::nullopt;
                         std::string name = s.user_name();
                         return name.empty() ? std::nullopt : std::optional(std::move(name));
                     })
        .def_prop_ro("label", &Segment::label)
        .def_prop_ro("epoch", [](const Segment& s) { return s.header().epoch; })
        .def_prop_ro("n_reader", [](const Segment& s) { return s.geometry().n_reader; })
        .def_prop_ro("ranks", &Segment::ranks)
        .def_prop_ro("max_chunk_bytes", [](const Segment& s) { return s.geometry().max_chunk_bytes; })
        .def_prop_ro("max_chunks", [](const Segment& s) { return s.geometry().max_chunks; })
        .def_prop_ro("inline_bytes", [](const Segment& s) { return s.geometry().inline_bytes; })
        .def_prop_ro("control_bytes", [](const Segment& s) { return s.geometry().control_bytes; })
        .def_prop_ro("data_budget", [](const Segment& s) { return s.geometry().data_budget; })
        .def_prop_ro("max_leases", [](const Segment& s) { return s.geometry().max_leases; })
        .def_prop_ro("blocks_in_use",
                     [](const Segment& s) { return s.ring().control->blocks_in_use.load(std::memory_order_relaxed); })
        .def_prop_ro(
            "block_bytes_in_use",
            [](const Segment& s) { return s.ring().control->block_bytes_in_use.load(std::memory_order_relaxed); })
        .def_prop_ro(
            "oversize_messages",
            [](const Segment& s) { return s.ring().control->oversize_messages.load(std::memory_order_relaxed); })
        .def_prop_ro("committed_bytes", &Segment::committed_bytes)
        .def_prop_ro("name_is_left", &Segment::name_is_left)
        .def_prop_ro("creator_pid", [](const Segment& s) { return s.header().creator_pid; })
        .def_prop_ro("creator_alive", &Segment::creator_alive)
        .def_prop_ro("creator_process",
                     [](const Segment& s) {
                         return process_name(s.header().creator_pid, s.header().creator_pid_namespace,
                                             s.creator_alive());
                     })
        .def_prop_ro("created_at_ns", [](const Segment& s) { return s.header().created_at_ns; })
        .def_prop_ro("head", [](const Segment& s) { return s.ring().control->head.load(std::memory_order_relaxed); })
        .def_prop_ro("bytes_published",
                     [](const Segment& s) { return s.ring().control->bytes_published.load(std::memory_order_relaxed); })
        .def_prop_ro("closed",
                     [](const Segment& s) { return s.ring().control->closed.load(std::memory_order_acquire) != 0; })
        .def_prop_ro("ending",
                     [](const Segment& s) {
                         const char* const endings[] = {"", "closed", "writer_died", "link_died"};
                         const std::uint32_t why =
                             s.ring().control->closed.load(std::memory_order_acquire);  // acquire [closed]
                         return why < std::size(endings) ? endings[why] : "unknown";
                     })
        .def_prop_ro("sends_arrays", [](const Segment& s) { return has_sent(s, Encoding::array); })
        .def_prop_ro("sends_tensors", [](const Segment& s) { return has_sent(s, Encoding::tensor); })
        .def_prop_ro("writer_waits",
                     [](const Segment& s) { return known(s.ring().control->waits.load_of(kWritersIncarnation)); })
        .def("unlink", &Segment::unlink)
        .def("seats", &seats)
        .def("missed", &missed)
        .def("slot_state", &slot_state, "index"_a);
    add_board_methods(type);
    add_look_methods(type);

    module.def("list_names", &platform::list_names, "prefix"_a);
    module.def("sweep", &swept, "prefix"_a, "suffix"_a, "dry_run"_a, "spared"_a = "", "others_only"_a = false);
    module.def("probe_features", &probe_features, "name"_a);
    module.def("cpu_quota", &platform::cpu_quota);
    module.def("queue_label", &queue_label, "user_name"_a, "segment_name"_a);
    module.def("user_id", &platform::user_id);
    module.def("random_u64", &platform::random_u64);
}

}  // namespace ringcast::bindings
