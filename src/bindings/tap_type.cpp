// The Python type Tap, by which a link reads a ring. Its process is the library's own: no view of a message outlives it.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>

#include <memory>

#include "modules.hpp"
#include "tap.hpp"
#include "unlocked.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ringcast::bindings {

namespace {

struct Buffer {
    Py_buffer view{};
    Buffer(nb::handle object, int flags) {
        if (PyObject_GetBuffer(object.ptr(), &view, flags) != 0) throw nb::python_error();
    }
    ~Buffer() { PyBuffer_Release(&view); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
};

std::unique_ptr<Tap> make_tap(const std::shared_ptr<Segment>& segment,
                              std::tuple<std::int64_t, std::int64_t, std::int64_t, bool> strategy) {
    const auto [spin_ns, yield_ns, park_ns, adaptive] = strategy;
    return std::make_unique<Tap>(segment, Strategy{spin_ns, yield_ns, park_ns, adaptive}, claim_tap(*segment));
}

std::size_t fill(Tap& tap, nb::handle buffer, std::uint64_t longest) {
    const Buffer to(buffer, PyBUF_WRITABLE);
    return tap.fill(static_cast<std::byte*>(to.view.buf), static_cast<std::size_t>(to.view.len), longest);
}

// (bytes, encoding, framed), where the bytes lie.
nb::object peek(Tap& tap) {
    const auto message = tap.peek();
    if (!message) return nb::none();
    // Python's interface takes a plain pointer, also for a view that is read-only.
    auto* bytes = reinterpret_cast<char*>(const_cast<std::byte*>(message->bytes));
    const nb::object view =
        nb::steal(PyMemoryView_FromMemory(bytes, static_cast<Py_ssize_t>(message->length), PyBUF_READ));
    if (!view.is_valid()) throw nb::python_error();
    return nb::make_tuple(view, static_cast<int>(message->encoding), message->framed);
}

bool wait(Tap& tap, double seconds) {
    const Unlocked unlocked;
    return tap.await(platform::monotonic_ns() + static_cast<std::int64_t>(seconds * 1e9));
}

void close(Tap& tap, bool lost) {
    if (lost) tap.fail();
    tap.shut_down();  // the segment stays: the stream's other thread may be asking something just now
}

}  // namespace

void bind_tap(nb::module_& module) {
    nb::class_<Tap>(module, "Tap", "The end by which a link reads a ring for another machine.")
        .def(nb::new_(&make_tap), "segment"_a, "strategy"_a)
        .def_prop_ro("seat", [](const Tap& tap) { return tap.claim().seat; })
        .def_prop_ro("first", [](const Tap& tap) { return tap.claim().first; })
        .def_prop_ro("kept", [](const Tap& tap) { return tap.claim().kept; })
        .def_prop_ro("position", &Tap::position)
        .def_prop_ro("acknowledged", &Tap::acknowledged)
        .def_prop_ro("readable", &Tap::readable)
        .def_prop_ro("all_ready", &Tap::all_ready)
        .def("fill", &fill, "buffer"_a, "longest"_a)
        .def("peek", &peek)
        .def("take", &Tap::take)
        .def("check", &Tap::check)
        .def("acknowledge", &Tap::acknowledge, "position"_a)
        .def("go_back", &Tap::go_back)
        .def("wait", &wait, "seconds"_a)
        .def("rouse", [](Tap& tap) { tap.rouse(); })
        .def(
            "ending", [](const Tap& tap, bool look_at_life) { return static_cast<int>(tap.ending(look_at_life)); },
            "look_at_life"_a)
        .def("close", &close, "lost"_a);
}

}  // namespace ringcast::bindings
