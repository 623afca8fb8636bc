// The calls by which a link writes a relay: messages that are encoded already, one after the other from a batch, or one
// whose bytes are still to come.
#include <nanobind/stl/string.h>
#include <cstring>

#include "arguments.hpp"
#include "buffers.hpp"
#include "methods.hpp"
#include "tap.hpp"

namespace ringcast::bindings {

using namespace nb::literals;

namespace {

constexpr std::uint32_t kAnnounceEvery = 32;

struct Bytes {
    Py_buffer view{};
    explicit Bytes(nb::handle object) {
        if (PyObject_GetBuffer(object.ptr(), &view, PyBUF_SIMPLE) != 0) throw nb::python_error();
    }
    ~Bytes() { PyBuffer_Release(&view); }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
};

[[noreturn]] void raise_foreign(const End& end) {
    raise("CorruptError", end.context() + ": the link's other side sent what is no batch of messages");
}

Encoding checked_encoding(const End& end, int encoding) {
    if (encoding < 0 || encoding > static_cast<int>(kLastEncoding)) raise_foreign(end);
    return static_cast<Encoding>(encoding);
}

// Publishes the messages of a batch (BatchHead), but for the first `done` of them. Returns how many are published then, and
// whether these are all: not if `timeout` is over.
nb::tuple relay(nb::handle self, nb::handle batch, std::uint64_t done, nb::handle timeout) {
    End& end = nb::cast<End&>(self);
    Sender& sender = end.writer("_relay");
    const WaitOptions options{.timeout_ns = parse_timeout(timeout.ptr())};
    const Bytes bytes(batch);
    const auto* at = static_cast<const std::byte*>(bytes.view.buf);
    const std::byte* const stop = at + bytes.view.len;
    try {
        Call call(end, options);
        struct Announce {
            Sender& sender;
            ~Announce() { sender.announce(); }
        } announce_at_end{sender};
        for (std::uint64_t number = 0; at != stop; ++number) {
            BatchHead head;
            if (stop - at < static_cast<std::ptrdiff_t>(sizeof head)) raise_foreign(end);
            std::memcpy(&head, at, sizeof head);
            at += sizeof head;
            if (head.length > stop - at || head.framed > 1 || head.zero != 0) raise_foreign(end);
            const Encoding encoding = checked_encoding(end, static_cast<int>(head.encoding));
            if (number >= done) {
                Sender::Room room;
                if (!reserve(end, sender, head.length, room, options, call.deadline_ns, self.ptr())) {
                    PyErr_Clear();
                    return nb::make_tuple(done, false);
                }
                std::memcpy(room.bytes, at, head.length);
                sender.commit(room, encoding, head.framed != 0, (done + 1) % kAnnounceEvery != 0);
                ++done;
            }
            at += head.length;
        }
    } catch (const Error& error) {
        raise(error, end.context());
    }
    return nb::make_tuple(done, true);
}

// A writable memoryview of a message to come, or None if `timeout` is over. It is published by `_relay_commit`, or dropped
// when the next room is asked for.
nb::object relay_room(nb::handle self, std::uint64_t length, nb::handle timeout) {
    End& end = nb::cast<End&>(self);
    Sender& sender = end.writer("_relay_room");
    const WaitOptions options{.timeout_ns = parse_timeout(timeout.ptr())};
    try {
        Call call(end, options);
        if (!reserve(end, sender, length, end.relay_room, options, call.deadline_ns, self.ptr())) {
            PyErr_Clear();
            return nb::none();
        }
    } catch (const Error& error) {
        raise(error, end.context());
    }
    const nb::object view = nb::steal(PyMemoryView_FromMemory(reinterpret_cast<char*>(end.relay_room.bytes),
                                                              static_cast<Py_ssize_t>(length), PyBUF_WRITE));
    if (!view.is_valid()) throw nb::python_error();
    return view;
}

void relay_commit(nb::handle self, int encoding, bool framed) {
    End& end = nb::cast<End&>(self);
    Sender& sender = end.writer("_relay_commit");
    const Encoding checked = checked_encoding(end, encoding);
    Call call(end, WaitOptions{});
    sender.commit(end.relay_room, checked, framed);
}

void relay_end(nb::handle self, int why, const std::string& reason) {
    End& end = nb::cast<End&>(self);
    end.writer("_relay_end").note_ending(static_cast<Ending>(why), reason);
    end.endpoint().shut_down();
}

void relay_ready(nb::handle self) {
    End& end = nb::cast<End&>(self);
    Call call(end, WaitOptions{});
    end.writer("_relay_ready").confirm_ready();
}

}  // namespace

void add_relay_methods(nb::class_<End>& type) {
    type.def("_relay", &relay, "batch"_a, "done"_a, "timeout"_a.none())
        .def("_relay_room", &relay_room, "length"_a, "timeout"_a.none())
        .def("_relay_commit", &relay_commit, "encoding"_a, "framed"_a)
        .def("_relay_end", &relay_end, "why"_a, "reason"_a)
        .def("_relay_ready", &relay_ready);
}

}  // namespace ringcast::bindings
