// What an observer sees of a ring from one moment to the next, cheaply enough to look thousands of times a second: methods of
// Segment. They take no seat, ask the kernel nothing, and store nothing in shared memory.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <atomic>
#include <optional>
#include <tuple>

#include "marks.hpp"
#include "modules.hpp"
#include "parking.hpp"
#include "py_errors.hpp"
#include "seats.hpp"
#include "segment.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ringcast::bindings {

namespace {

const char* sleep_name(std::uint32_t word) { return word == 0 ? "awake" : word == kSelects ? "armed" : "asleep"; }

// (began, head, whom the writer sleeps for, when it was woken, seats, ended); times in ns of the monotonic clock, between which
// all was loaded. The writer sleeps for a seat, or -1: for any change of one; None: it does not sleep. Of each seat that the
// writer waits for: (seat, incarnation, rank, pid, first message, cursor, "awake", "asleep" or "armed", when it was woken).
//
// Cursors are loaded before the head, so that one is beyond it only if its reader was faster than the writer's store.
nb::tuple look(const Segment& segment) {
    const auto& ring = segment.ring();
    const std::int64_t began = platform::Native::now_ns();
    nb::list seats;
    for (std::uint32_t i = 0; i < ring.n_seats; ++i) {
        const NativeSeat& seat = ring.seats[i];
        const std::uint64_t word = seat.state.load(std::memory_order_acquire);  // acquire [join], [leave]
        if (!gates(word)) continue;
        // acquire [consume]: the messages before it are published, as is told by what is loaded later.
        const std::uint64_t cursor = seat.cursor.load(std::memory_order_acquire);
        const std::uint64_t first = seat.joined_at.load(std::memory_order_relaxed);
        const bool held = is_held(word);
        seats.append(nb::make_tuple(i, seat_incarnation(word), seat.rank.load(std::memory_order_relaxed),
                                    held ? seat.pid.load(std::memory_order_relaxed) : 0,
                                    first == kJoining ? cursor : first, cursor,
                                    sleep_name(held ? seat.parked.word.load(std::memory_order_relaxed) : 0),
                                    seat.parked.woken_at.load(std::memory_order_relaxed)));
    }
    const std::uint32_t token = ring.control->writer_parked.word.load(std::memory_order_relaxed);
    const std::int64_t woken = ring.control->writer_parked.woken_at.load(std::memory_order_relaxed);
    // relaxed: behind the cursors, by their [consume].
    const std::uint64_t head = ring.control->head.load(std::memory_order_relaxed);
    std::optional<std::int64_t> waits_for;
    if (token != 0) waits_for = token <= ring.n_seats ? std::int64_t{token} - 1 : -1;
    return nb::make_tuple(began, head, waits_for, woken, seats, platform::Native::now_ns());
}

// (bytes, row of release marks) of message `position`; the row is None of one that lies inline. None: its slot has another
// message, or none yet.
std::optional<std::tuple<std::uint64_t, std::optional<std::uint32_t>>> message(const Segment& segment,
                                                                               std::uint64_t position) {
    const auto& ring = segment.ring();
    NativeSlot& slot = ring.slot(static_cast<std::uint32_t>(position % ring.depth));
    // acquire [publish]: descriptor and bytes were stored before.
    if (slot.sequence.load(std::memory_order_acquire) != position + 1) return std::nullopt;
    Descriptor descriptor;
    platform::Native::copy(&descriptor, &slot.descriptor, sizeof descriptor);
    // Who is looked at waits for nobody: the writer may be overwriting the slot meanwhile. Then it has published all before; in
    // the rare case that this is not seen yet, a picture has a wrong length, and no memory is touched for it.
    std::atomic_thread_fence(std::memory_order_acquire);
    if (ring.control->head.load(std::memory_order_relaxed) >= position + ring.depth) return std::nullopt;
    const bool in_block = descriptor.block != kInline && descriptor.row < segment.geometry().max_leases;
    return std::tuple(descriptor.length, in_block ? std::optional(descriptor.row) : std::nullopt);
}

// The number, counted from 1, of the last message in `row` that the seat's holder is done with.
std::uint64_t mark(const Segment& segment, std::uint32_t seat, std::uint32_t row) {
    if (seat >= segment.ring().n_seats || row >= segment.geometry().max_leases)
        raise("ArgumentError", "there is no such release mark");
    return segment.ring().mark(seat, row).load(std::memory_order_acquire);  // acquire [mark]
}

}  // namespace

void add_look_methods(nb::class_<Segment>& type) {
    type.def("look", &look).def("message", &message, "position"_a).def("mark", &mark, "seat"_a, "row"_a);
}

}  // namespace ringcast::bindings
