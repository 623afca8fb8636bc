// The calls of a writer: enqueue and its relatives.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <string>

#include "arguments.hpp"
#include "arrays.hpp"
#include "buffers.hpp"
#include "courtesy.hpp"
#include "methods.hpp"
#include "tensors.hpp"

namespace ringcast::bindings {

namespace {

constexpr std::uint32_t kAnnounceEvery = 32;  // messages of a batch that may wait for their readers' wake-up

// Says which readers have left since the last message was sent, or raises ReaderLeftError: the next one is not for them.
[[gnu::noinline, gnu::cold]] void tell_of_departures(End& end, Sender& sender, PyObject* self) {
    for (const Reach& reach : sender.readers().reach()) end.report_reach(self, reach.rank, reach.host, reach.cut);
    for (const Eviction& eviction : sender.readers().evicted_elsewhere()) end.report_eviction(self, eviction, 0);
    end.report_losses(self, sender.readers().departures());
}
void notice_departures(End& end, Sender& sender, PyObject* self) {
    if (sender.readers().anyone_left()) [[unlikely]]
        tell_of_departures(end, sender, self);
}

// Looks at the reader in the way: true if it is worth trying again, because it has been evicted or blocks came back.
bool make_room(End& end, Sender& sender, bool waits, PyObject* self) {
    notice_departures(end, sender, self);
    const auto eviction = sender.check_room(waits);
    if (eviction) end.report_eviction(self, *eviction, platform::monotonic_ns() - sender.waiting_since_ns());
    return eviction.has_value() || sender.reclaimed();
}

}  // namespace

bool reserve(End& end, Sender& sender, std::uint64_t bytes, Sender::Room& room, const WaitOptions& options,
             std::int64_t& deadline_ns, PyObject* self) {
    const auto try_reserve = [&] {
        if (bytes < kUnlockedCopyBytes) return sender.try_reserve(bytes, room);
        const Unlocked unlocked;  // it may have to ask the system for memory
        return sender.try_reserve(bytes, room);
    };
    notice_departures(end, sender, self);
    while (!try_reserve()) {
        if (sender.patience_over() && make_room(end, sender, false, self)) continue;
        const bool goes_on = end.wait(
            options, deadline_ns, self, [&] { return sender.await_room_briefly(); },
            [&](std::int64_t until) { return sender.await_room(until); },
            [&](std::int64_t waited_ns) { return make_room(end, sender, waited_ns != 0, self); });
        if (!goes_on) {
            end.timed_out(options);
            return false;
        }
    }
    return true;
}

namespace {

[[nodiscard]] bool send_bytes(End& end, Sender& sender, PyObject* bytes, const WaitOptions& options,
                              std::int64_t& deadline_ns, PyObject* self, bool announce_later) {
    const auto length = static_cast<std::uint64_t>(PyBytes_GET_SIZE(bytes));
    Sender::Room room;
    if (!reserve(end, sender, length, room, options, deadline_ns, self)) return false;
    copy_bytes(room.bytes, PyBytes_AS_STRING(bytes), length);
    sender.commit(room, Encoding::raw, false, announce_later);
    return true;
}

// Calls `send` with what `object`, which is not bytes, is sent as: something with payload_bytes, write, encoding, framed.
// It is made before the turn is taken: the codec runs the user's code.
template <class Send>
auto with_payload(const End& end, PyObject* object, Send&& send) {
    if (end.codec.arrays()) {
        if (const auto array = OutgoingArray::of(object)) return send(*array);
        if (const auto tensor = OutgoingTensor::of(object)) return send(*tensor);
    }
    return send(end.codec.encode(object));
}

// Buffers that travel beside a message's stream are mostly arrays', where there are arrays at all.
template <class Payload>
void note_arrays_within(Sender& sender, const Payload& payload) {
    if (!payload.framed() || sender.has_sent(Encoding::array)) return;
    PyObject* modules = PyImport_GetModuleDict();
    if (PyDict_GetItemString(modules, "numpy") != nullptr) sender.note_encoding(Encoding::array);
}

// False: the time is over, and the Python exception set.
[[nodiscard]] bool send(End& end, Sender& sender, PyObject* object, const WaitOptions& options, PyObject* self) {
    if (PyBytes_CheckExact(object)) {
        Call call(end, options);
        return send_bytes(end, sender, object, options, call.deadline_ns, self, false);
    }
    return with_payload(end, object, [&](const auto& payload) {
        Call call(end, options);
        Sender::Room room;
        if (!reserve(end, sender, payload.payload_bytes(), room, options, call.deadline_ns, self)) return false;
        if (call.deadline_ns != 0 && !payload.is_there()) [[unlikely]] {  // it has waited
            sender.cancel();
            raise("EncodeError", end.context() +
                                     ": an array or tensor of the message got other memory while the call "
                                     "waited for room (resize, resize_, set_, share_memory_); nothing was "
                                     "sent. Send it again, or a copy of it");
        }
        payload.write(room.bytes);
        note_arrays_within(sender, payload);
        sender.commit(room, payload.encoding(), payload.framed());
        return true;
    });
}

PyObject* enqueue(PyObject* self, Arguments arguments, Py_ssize_t positional, PyObject* keywords) {
    return guarded(self, [&]() -> PyObject* {
        const auto [object, timeout] = parse<2>("enqueue", {"obj", "timeout"}, 1, arguments, positional, keywords);
        End& end = end_of(self);
        Sender& sender = end.writer("enqueue");
        const WaitOptions options{.timeout_ns = parse_timeout(timeout)};
        end.check_usable();
        return send(end, sender, object, options, self) ? Py_NewRef(Py_None) : nullptr;
    });
}

// Sends if there is room now.
template <class Write>
PyObject* try_send(PyObject* self, End& end, Sender& sender, std::uint64_t bytes, Encoding encoding, bool framed,
                   Write&& write) {
    const auto call = Call::without_waiting(end);
    if (!call) return Py_NewRef(Py_False);
    notice_departures(end, sender, self);
    Sender::Room room;
    while (!sender.try_reserve(bytes, room))
        if (!make_room(end, sender, false, self)) return Py_NewRef(Py_False);
    write(room.bytes);
    sender.commit(room, encoding, framed);
    return Py_NewRef(Py_True);
}

PyObject* try_enqueue(PyObject* self, PyObject* object) {
    return guarded(self, [&]() -> PyObject* {
        End& end = end_of(self);
        Sender& sender = end.writer("try_enqueue");
        end.check_usable();
        if (PyBytes_CheckExact(object)) {
            const auto length = static_cast<std::uint64_t>(PyBytes_GET_SIZE(object));
            return try_send(self, end, sender, length, Encoding::raw, false,
                            [&](std::byte* to) { copy_bytes(to, PyBytes_AS_STRING(object), length); });
        }
        return with_payload(end, object, [&](const auto& payload) {
            return try_send(self, end, sender, payload.payload_bytes(), payload.encoding(), payload.framed(),
                            [&](std::byte* to) {
                                payload.write(to);
                                note_arrays_within(sender, payload);
                            });
        });
    });
}

bool all_bytes(const nb::tuple& items) {
    for (nb::handle item : items)
        if (!PyBytes_CheckExact(item.ptr())) return false;
    return true;
}

// The Python exception that is set tells how many messages were sent before it.
PyObject* with_sent(std::uint64_t sent) {
    nb::python_error error;  // takes it
    error.value().attr("sent") = sent;
    error.restore();
    return nullptr;
}

// Tells how many messages were sent before the exception: by its attribute, and of one that is not ours by a note, too.
void tell_sent(const End& end, nb::python_error& error, std::uint64_t sent) {
    const nb::object exception = nb::borrow(error.value());
    const bool ours = is_one_of(error, "RingcastError");
    // An attribute of that name of a stranger's means something else; some exceptions take none.
    if (ours || PyObject_HasAttrString(exception.ptr(), "sent") == 0)
        if (PyObject_SetAttrString(exception.ptr(), "sent", nb::int_(sent).ptr()) != 0) PyErr_Clear();
    if (ours || PyObject_HasAttrString(exception.ptr(), "add_note") == 0) return;  // from Python 3.11 on
    const std::string note =
        end.context() + ": enqueue_many had sent " + std::to_string(sent) + " messages before this was raised";
    if (nb::steal(PyObject_CallMethod(exception.ptr(), "add_note", "s", note.c_str())).ptr() == nullptr) PyErr_Clear();
}

// Raises the exception in flight again, telling how many messages were sent before it.
[[noreturn]] void raise_with_sent(const End& end, std::uint64_t sent) {
    try {
        try {
            throw;
        } catch (const Error& error) {
            raise(error, end.context());
        }
    } catch (nb::python_error& error) {
        tell_sent(end, error, sent);
        throw;
    }
}

PyObject* enqueue_many(PyObject* self, Arguments arguments, Py_ssize_t positional, PyObject* keywords) {
    return guarded(self, [&]() -> PyObject* {
        const auto [objects, timeout] =
            parse<2>("enqueue_many", {"objs", "timeout"}, 1, arguments, positional, keywords);
        End& end = end_of(self);
        Sender& sender = end.writer("enqueue_many");
        WaitOptions options{.timeout_ns = parse_timeout(timeout)};
        end.check_usable();
        std::uint64_t sent = 0;
        try {
            const bool fixed = PyList_CheckExact(objects) || PyTuple_CheckExact(objects);
            const nb::object sequence = fixed ? owned(PySequence_Tuple(objects))  // another thread may change a list
                                              : parse_iterable("objs", objects);
            const std::int64_t started = platform::monotonic_ns();
            const auto rest = [&] {
                WaitOptions left = options;
                if (options.timeout_ns != kForever && options.timeout_ns != 0)
                    left.timeout_ns =
                        std::max<std::int64_t>(0, options.timeout_ns - (platform::monotonic_ns() - started));
                return left;
            };
            if (fixed && all_bytes(nb::borrow<nb::tuple>(sequence))) {
                // The turn is kept for several messages, but not for longer than other threads can wait.
                Courtesy courtesy(16);
                const auto count = static_cast<std::uint64_t>(PyTuple_GET_SIZE(sequence.ptr()));
                while (sent < count) {
                    {
                        const WaitOptions left = rest();
                        Call call(end, left);
                        struct Announce {
                            Sender& sender;
                            ~Announce() { sender.announce(); }
                        } announce_at_end{sender};
                        do {
                            end.check_usable();
                            PyObject* bytes = PyTuple_GET_ITEM(sequence.ptr(), static_cast<Py_ssize_t>(sent));
                            if (!send_bytes(end, sender, bytes, left, call.deadline_ns, self,
                                            (sent + 1) % kAnnounceEvery != 0))
                                return with_sent(sent);
                            ++sent;
                        } while (sent < count && !courtesy.is_due());
                    }
                    if (sent < count) courtesy.pause();
                }
            } else {
                Courtesy courtesy(1);
                for (nb::handle item : sequence) {
                    if (!send(end, sender, item.ptr(), rest(), self)) return with_sent(sent);
                    ++sent;
                    if (courtesy.is_due()) courtesy.pause();
                }
            }
        } catch (...) {
            raise_with_sent(end, sent);
        }
        return PyLong_FromUnsignedLongLong(sent);
    });
}

// What they do is said where MessageQueue declares them; see `documented`.
PyMethodDef methods[] = {
    {"enqueue", as_c_function(&enqueue), kFastCall, "enqueue($self, obj, timeout=None)\n--\n\n"},
    {"try_enqueue", as_c_function(&try_enqueue), METH_O, "try_enqueue($self, obj, /)\n--\n\n"},
    {"enqueue_many", as_c_function(&enqueue_many), kFastCall, "enqueue_many($self, objs, timeout=None)\n--\n\n"},
};

}  // namespace

void add_send_methods(nb::handle type) { add_methods(type, methods, std::size(methods)); }

}  // namespace ringcast::bindings
