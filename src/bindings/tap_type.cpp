// The Python type Tap, by which a link reads a ring. Its process is the library's own: no view of a message outlives it.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>

#include <memory>

#include "modules.hpp"
#include "tap.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ringcast::bindings {

namespace {

std::unique_ptr<Tap> make_tap(const std::shared_ptr<Segment>& segment,
                              std::tuple<std::int64_t, std::int64_t, std::int64_t, bool> strategy, bool promised) {
    const auto [spin_ns, yield_ns, park_ns, adaptive] = strategy;
    return std::make_unique<Tap>(segment, Strategy{spin_ns, yield_ns, park_ns, adaptive},
                                 claim_tap(*segment, promised));
}

void close(Tap& tap, bool lost) {
    if (lost) tap.fail();
    tap.shut_down();  // the segment stays: the stream's other thread may be asking something just now
}

}  // namespace

void bind_tap(nb::module_& module) {
    nb::class_<Tap>(module, "Tap", "The end by which a link reads a ring for another machine.")
        .def(nb::new_(&make_tap), "segment"_a, "strategy"_a, "promised"_a)
        .def_prop_ro("seat", [](const Tap& tap) { return tap.claim().seat; })
        .def_prop_ro("first", [](const Tap& tap) { return tap.claim().first; })
        .def_prop_ro("kept", [](const Tap& tap) { return tap.claim().kept; })
        .def_prop_ro("position", &Tap::position)
        .def_prop_ro("acknowledged", &Tap::acknowledged)
        .def_prop_ro("readable", &Tap::readable)
        .def_prop_ro("all_ready", &Tap::all_ready)
        .def("acknowledge", &Tap::acknowledge, "position"_a)
        .def("go_back", &Tap::go_back)
        .def("rouse", [](Tap& tap) { tap.rouse(); })
        .def(
            "ending", [](const Tap& tap, bool look_at_life) { return static_cast<int>(tap.ending(look_at_life)); },
            "look_at_life"_a)
        .def("close", &close, "lost"_a);
}

}  // namespace ringcast::bindings
