// The Python types Desk and Place: both sides of a link's desk. What they say to each other is text here, JSON above.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <algorithm>
#include <cstdio>
#include <string_view>

#include "desk.hpp"
#include "modules.hpp"
#include "platform/clock.hpp"
#include "py_errors.hpp"
#include "unlocked.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ringcast::bindings {

namespace {

std::string_view checked_text(const nb::bytes& text) {
    if (text.size() > DeskText::kBytes)
        raise("ArgumentError", "a text of " + std::to_string(text.size()) +
                                   " bytes does not fit into a desk's place, " + "which takes " +
                                   std::to_string(DeskText::kBytes));
    return {text.c_str(), text.size()};
}

// A holder's number: its place and incarnation, never another's of the same desk.
std::uint64_t holder_of(std::uint32_t place, std::uint32_t incarnation) {
    return std::uint64_t{incarnation} * kDeskPlaces + place;
}
std::uint32_t place_of(std::uint64_t holder) { return static_cast<std::uint32_t>(holder % kDeskPlaces); }
std::uint32_t incarnation_of(std::uint64_t holder) { return static_cast<std::uint32_t>(holder / kDeskPlaces); }

// Python's signal handlers run between two slices.
bool wait(Desk& desk, std::int64_t timeout_ns) {
    const std::int64_t begin = platform::monotonic_ns();
    for (;;) {
        const std::int64_t left = timeout_ns - (platform::monotonic_ns() - begin);
        bool found = false;
        {
            const Unlocked unlocked;
            found = desk.wait(std::max<std::int64_t>(left, 0));
        }
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        if (found) return true;
        if (left <= 0) return false;
    }
}

nb::list take_requests(Desk& desk) {
    nb::list result;
    for (const auto& one : desk.take_requests())
        result.append(nb::make_tuple(holder_of(one.place, one.incarnation), one.number,
                                     nb::bytes(one.text.data(), one.text.size())));
    return result;
}

struct Request {
    Place& place;
    ~Request() { place.end(); }
};

// `seconds` is what the time-out was at first, for messages.
nb::bytes ask(Place& place, const nb::bytes& request, std::int64_t timeout_ns, double seconds) {
    const auto check_forked = [&] {
        if (place.in_forked_child())
            raise("ForkedError", "a place at the desk of " + place.link() +
                                     " belongs to the process that took it, not to this forked child");
    };
    check_forked();
    const std::int64_t begin = platform::monotonic_ns();
    switch (place.begin(checked_text(request))) {
        case Place::Begun::asked:
            break;
        case Place::Begun::busy:
            raise("BusyError", "a request to " + place.link() + " is waiting for its answer already at this place");
        case Place::Begun::closed:
            raise("QueueClosedError", "the place at the desk of " + place.link() + " was closed");
    }
    const Request asked{place};
    for (;;) {
        const std::int64_t left = timeout_ns - (platform::monotonic_ns() - begin);
        Place::Progress progress{};
        {
            const Unlocked unlocked;
            progress = place.wait(std::max<std::int64_t>(left, 0));
        }
        if (progress == Place::Progress::answered) {
            const std::string reply = place.reply();
            return nb::bytes(reply.data(), reply.size());
        }
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        check_forked();  // by a signal's handler
        if (progress == Place::Progress::link_died)
            raise("LinkDiedError", place.link() + " has died, or ended; make the queue, or attach to it, again");
        if (progress == Place::Progress::closed)
            raise("QueueClosedError", "the place at the desk of " + place.link() + " was closed");
        if (left <= 0) {
            char within[32];
            std::snprintf(within, sizeof within, "%g s", seconds);
            raise("QueueTimeoutError", place.link() + " has not answered within " + within);
        }
    }
}

}  // namespace

void bind_desk(nb::module_& module) {
    nb::class_<Desk>(module, "Desk", "A link's side of its desk.")
        .def_static(
            "create",
            [](const std::string& name, const std::string& job, const std::string& release) {
                const Unlocked unlocked;
                return Desk::create(name, job, release);
            },
            "name"_a, "job"_a, "release"_a)
        .def("wait", &wait, "timeout_ns"_a)
        .def("rouse", &Desk::rouse)
        .def("take_requests", &take_requests)
        .def(
            "answer",
            [](Desk& desk, std::uint64_t holder, std::uint32_t number, const nb::bytes& text) {
                return desk.answer(place_of(holder), incarnation_of(holder), number, checked_text(text));
            },
            "holder"_a, "number"_a, "text"_a)
        .def(
            "held",
            [](const Desk& desk, std::uint64_t holder) { return desk.held(place_of(holder), incarnation_of(holder)); },
            "holder"_a)
        .def("in_use", &Desk::in_use)
        .def("close_if_unused", &Desk::close_if_unused)
        .def("close", &Desk::close);

    nb::class_<Place>(module, "Place", "An end's side of a link's desk.")
        .def_static(
            "take",
            [](const std::string& name, const std::string& release) {
                const Unlocked unlocked;
                return Place::take(name, release);
            },
            "name"_a, "release"_a)
        .def("ask", &ask, "request"_a, "timeout_ns"_a, "seconds"_a)
        .def("close", &Place::close)
        .def_prop_ro("closed", &Place::closed)
        .def_prop_ro("holder", [](const Place& place) { return holder_of(place.index(), place.incarnation()); })
        .def_prop_ro("link", &Place::link)
        .def_prop_ro("link_pid", &Place::link_pid)
        .def_prop_ro("link_lives", &Place::link_lives);
    module.attr("DESK_PLACES") = kDeskPlaces;
    module.attr("DESK_TEXT_BYTES") = DeskText::kBytes;
}

}  // namespace ringcast::bindings
