// What a link tells the writer of readers on other machines, and what it is told by it: methods of Segment.
#include "board.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <cstring>
#include <optional>

#include "modules.hpp"
#include "py_errors.hpp"
#include "ranks.hpp"
#include "segment.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ringcast::bindings {

namespace {

const char* const kStates[] = {"open", "placed", "attached", "left", "died", "evicted", "lost", "cut"};

NativePlacement& placement_at(const Segment& segment, std::uint32_t index) {
    if (index >= segment.ring().n_remote) raise("ArgumentError", "there is no such reader on another machine");
    return segment.ring().board[index];
}

PlacementState state_of(const std::string& name) {
    for (std::uint32_t i = 0; i < std::size(kStates); ++i)
        if (name == kStates[i]) return static_cast<PlacementState>(i);
    raise("ArgumentError", "no state of a placement: " + name);
}

// (index, rank, state, pid, host, seat of its stream, messages behind, wishes to evict it) of each.
nb::list placements(const Segment& segment) {
    nb::list result;
    const auto& ring = segment.ring();
    for (std::uint32_t i = 0; i < ring.n_remote; ++i) {
        const NativePlacement& p = ring.board[i];
        const auto state = static_cast<std::uint32_t>(placement_state(p));
        result.append(nb::make_tuple(i, p.rank.load(std::memory_order_relaxed),
                                     state < std::size(kStates) ? kStates[state] : "unknown",
                                     p.pid.load(std::memory_order_relaxed), ringcast::text_of(p.host, sizeof p.host),
                                     p.stream.load(std::memory_order_relaxed), p.behind.load(std::memory_order_relaxed),
                                     p.evict.load(std::memory_order_relaxed)));
    }
    return result;
}

void place(const Segment& segment, std::uint32_t index, std::uint32_t rank, std::uint32_t pid, const std::string& host,
           std::uint32_t stream) {
    NativePlacement& p = placement_at(segment, index);
    p.rank.store(rank, std::memory_order_relaxed);
    p.pid.store(pid, std::memory_order_relaxed);
    p.stream.store(stream, std::memory_order_relaxed);
    p.behind.store(0, std::memory_order_relaxed);
    std::strncpy(p.host, host.c_str(), sizeof p.host - 1);
    post_placement(segment.ring(), index, PlacementState::placed);
}

void post(const Segment& segment, std::uint32_t index, const std::string& state, std::uint32_t pid,
          std::uint64_t behind, std::uint32_t cause) {
    NativePlacement& p = placement_at(segment, index);
    p.pid.store(pid, std::memory_order_relaxed);
    p.behind.store(behind, std::memory_order_relaxed);
    p.cause.store(cause, std::memory_order_relaxed);
    post_placement(segment.ring(), index, state_of(state));
}

// Another stream has this seat now: who has read through it before, and is gone, is none of its readers. Relaxed: no state is told
// with it, and everyone who looks takes nobody's number for a seat that is not there.
void forget_stream(const Segment& segment, std::uint32_t seat) {
    const auto& ring = segment.ring();
    for (std::uint32_t i = 0; i < ring.n_remote; ++i)
        if (ring.board[i].stream.load(std::memory_order_relaxed) == seat)
            ring.board[i].stream.store(kNobody, std::memory_order_relaxed);
}

// Nobody is expected in this home seat any more. False: somebody has it.
bool forgo(const Segment& segment, std::uint32_t home) {
    const auto& ring = segment.ring();
    if (home >= ring.n_seats || !segment.locks().try_lock(seat_lock(home))) return false;
    const bool forgone = forgo_home(ring, ring.seats[home]);
    segment.locks().unlock(seat_lock(home));
    return forgone;
}

// What has been counted of a stream's connections: of the one that reads from a seat, or, without one, of this relay's.
Wire<platform::Native>& wire_at(const Segment& segment, std::optional<std::uint32_t> seat) {
    const auto& ring = segment.ring();
    if (!seat) return ring.control->wire;
    if (*seat >= ring.n_seats) raise("ArgumentError", "there is no such seat");
    return ring.seats[*seat].wire;
}

// relaxed, all of it: nobody acts on these words.
void note_wire(const Segment& segment, std::optional<std::uint32_t> seat, std::uint64_t sent, std::uint64_t received,
               std::uint32_t reconnects, std::uint64_t cut_since, bool encrypted, std::uint64_t published) {
    auto& wire = wire_at(segment, seat);
    wire.sent.store(sent, std::memory_order_relaxed);
    wire.received.store(received, std::memory_order_relaxed);
    wire.reconnects.store(reconnects, std::memory_order_relaxed);
    wire.cut_since.store(cut_since, std::memory_order_relaxed);
    wire.encrypted.store(encrypted ? 1 : 0, std::memory_order_relaxed);
    wire.published.store(published, std::memory_order_relaxed);
}

nb::tuple wire(const Segment& segment, std::optional<std::uint32_t> seat) {
    const auto& wire = wire_at(segment, seat);
    return nb::make_tuple(
        wire.sent.load(std::memory_order_relaxed), wire.received.load(std::memory_order_relaxed),
        wire.reconnects.load(std::memory_order_relaxed), wire.cut_since.load(std::memory_order_relaxed),
        wire.encrypted.load(std::memory_order_relaxed) != 0, wire.published.load(std::memory_order_relaxed));
}

// Whoever was expected in this home seat, which nobody has, is told when he comes that he was given up.
void give_up(const Segment& segment, std::uint32_t home) {
    const auto& ring = segment.ring();
    if (home >= ring.n_seats || !segment.locks().try_lock(seat_lock(home))) return;
    NativeSeat& seat = ring.seats[home];
    forgo_home(ring, seat);
    std::uint64_t word = seat.state.load(std::memory_order_relaxed);
    // relaxed: who may take the seat comes later, and by other means.
    if (seat_state(word) == SeatState::vacant)
        seat.state.compare_exchange_strong(word, seat_word(seat_incarnation(word), SeatState::forgone),
                                           std::memory_order_relaxed);
    segment.locks().unlock(seat_lock(home));
}

NativeSeat& home_of(const Segment& segment, std::uint32_t index) {
    placement_at(segment, index);
    return segment.ring().seats[segment.ring().n_local + index];
}

}  // namespace

void add_board_methods(nb::class_<Segment>& type) {
    type.def_prop_ro("n_remote", [](const Segment& s) { return s.ring().n_remote; })
        .def_prop_ro("is_relay", &Segment::is_relay)
        .def_prop_ro("source",
                     [](const Segment& s) {
                         const Source source = s.source();
                         return nb::make_tuple(source.host, source.pid);
                     })
        .def(
            "note_reach",
            [](const Segment& s, bool out_of_reach) {
                s.ring().control->out_of_reach.store(out_of_reach ? 1 : 0, std::memory_order_relaxed);
            },
            "out_of_reach"_a)
        .def("name_rank", &Segment::name_rank, "home"_a, "rank"_a)
        .def("placements", &placements)
        .def("place", &place, "index"_a, "rank"_a, "pid"_a, "host"_a, "stream"_a)
        .def("forget_stream", &forget_stream, "seat"_a)
        .def("post", &post, "index"_a, "state"_a, "pid"_a, "behind"_a, "cause"_a = 0)
        .def(
            "note_behind",
            [](const Segment& s, std::uint32_t index, std::uint64_t behind) {
                placement_at(s, index).behind.store(behind, std::memory_order_relaxed);
            },
            "index"_a, "behind"_a)
        .def(
            "note_absence",
            [](const Segment& s, std::uint32_t index, std::uint64_t position, std::uint32_t pid) {
                note_absence(home_of(s, index), position, pid);
            },
            "index"_a, "position"_a, "pid"_a)
        .def(
            "note_presence",
            [](const Segment& s, std::uint32_t index, std::uint64_t first) { note_presence(home_of(s, index), first); },
            "index"_a, "first"_a)
        .def("note_wire", &note_wire, "seat"_a.none(), "sent"_a, "received"_a, "reconnects"_a, "cut_since_ns"_a,
             "encrypted"_a, "published"_a = 0)
        .def("wire", &wire, "seat"_a.none())
        .def("forgo_home", &forgo, "home"_a)
        .def("give_up_home", &give_up, "home"_a);
}

}  // namespace ringcast::bindings
