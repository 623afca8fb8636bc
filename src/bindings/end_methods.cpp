// The calls that messages take: enqueue, dequeue and their relatives, as CPython method descriptors.
#include <string>

#include "arguments.hpp"
#include "chunk.hpp"
#include "end.hpp"
#include "frames.hpp"
#include "py_errors.hpp"

namespace ringcast::bindings {

namespace {

constexpr std::uint32_t kAnnounceEvery = 32;  // messages of a batch that may wait for their readers' wake-up

End& end_of(PyObject* self) {
    if (!nb::inst_ready(self)) {
        PyErr_SetString(PyExc_RuntimeError, "this queue was not initialised: its __init__ did not run, or failed");
        throw nb::python_error();
    }
    return *nb::inst_ptr<End>(self);
}

template <class Body>
PyObject* guarded(PyObject* self, Body&& body) noexcept {
    try {
        try {
            return body();
        } catch (const Error& error) {
            raise(error, end_of(self).context());
        }
    } catch (nb::python_error& error) {
        error.restore();
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_SystemError, error.what());
    }
    return nullptr;
}

using Arguments = PyObject* const*;

// ---- sending
// ---------------------------------------------------------------------------------------------------------

std::string describe_laggard(const Sender& sender) {
    return "the reader of rank " + std::to_string(sender.laggard_rank()) + " to make room (" +
           std::to_string(sender.backlog()) + " messages unread)";
}

void reserve(End& end, Sender& sender, std::uint64_t bytes, Sender::Room& room, const WaitOptions& options,
             std::int64_t& deadline_ns, PyObject* self) {
    const auto try_reserve = [&] {
        if (bytes < kUnlockedCopyBytes) return sender.try_reserve(bytes, room);
        nb::gil_scoped_release release_gil;  // it may have to ask the system for memory
        return sender.try_reserve(bytes, room);
    };
    while (!try_reserve())
        end.wait(
            options, deadline_ns, self, [&] { return sender.await_room_briefly(); },
            [&](std::int64_t until) { return sender.await_room(until); }, [&] { sender.check_laggard(); },
            [&] { return describe_laggard(sender); });
}

void send_bytes(End& end, Sender& sender, PyObject* bytes, const WaitOptions& options, std::int64_t& deadline_ns,
                PyObject* self, bool announce_later) {
    const auto length = static_cast<std::uint64_t>(PyBytes_GET_SIZE(bytes));
    Sender::Room room;
    reserve(end, sender, length, room, options, deadline_ns, self);
    copy_bytes(room.bytes, PyBytes_AS_STRING(bytes), length);
    sender.commit(room, Encoding::raw, 1, announce_later);
}

void send(End& end, Sender& sender, PyObject* object, const WaitOptions& options, PyObject* self) {
    if (PyBytes_CheckExact(object)) {
        Call call(end, options);
        send_bytes(end, sender, object, options, call.deadline_ns, self, false);
        return;
    }
    // Encoded before the turn is taken: the codec runs the user's code.
    const Frames frames(end.encode(nb::handle(object)));
    Call call(end, options);
    Sender::Room room;
    reserve(end, sender, frames.payload_bytes(), room, options, call.deadline_ns, self);
    frames.write(room.bytes);
    sender.commit(room, Encoding::object, frames.count());
}

PyObject* enqueue(PyObject* self, Arguments arguments, Py_ssize_t positional, PyObject* keywords) {
    return guarded(self, [&] {
        const auto [object, timeout] = parse<2>("enqueue", {"obj", "timeout"}, 1, arguments, positional, keywords);
        End& end = end_of(self);
        Sender& sender = end.writer("enqueue");
        const WaitOptions options{.timeout_ns = parse_timeout(timeout)};
        end.check_usable();
        send(end, sender, object, options, self);
        return Py_NewRef(Py_None);
    });
}

PyObject* try_enqueue(PyObject* self, PyObject* object) {
    return guarded(self, [&]() -> PyObject* {
        End& end = end_of(self);
        Sender& sender = end.writer("try_enqueue");
        const WaitOptions options{.timeout_ns = 0};
        end.check_usable();
        Sender::Room room;
        if (PyBytes_CheckExact(object)) {
            Call call(end, options);
            const auto length = static_cast<std::uint64_t>(PyBytes_GET_SIZE(object));
            if (!sender.try_reserve(length, room)) {
                sender.check_laggard();
                return Py_NewRef(Py_False);
            }
            copy_bytes(room.bytes, PyBytes_AS_STRING(object), length);
            sender.commit(room, Encoding::raw, 1);
            return Py_NewRef(Py_True);
        }
        const Frames frames(end.encode(nb::handle(object)));
        Call call(end, options);
        if (!sender.try_reserve(frames.payload_bytes(), room)) {
            sender.check_laggard();
            return Py_NewRef(Py_False);
        }
        frames.write(room.bytes);
        sender.commit(room, Encoding::object, frames.count());
        return Py_NewRef(Py_True);
    });
}

bool all_bytes(const nb::tuple& items) {
    for (nb::handle item : items)
        if (!PyBytes_CheckExact(item.ptr())) return false;
    return true;
}

PyObject* enqueue_many(PyObject* self, Arguments arguments, Py_ssize_t positional, PyObject* keywords) {
    return guarded(self, [&] {
        const auto [objects, timeout] =
            parse<2>("enqueue_many", {"objs", "timeout"}, 1, arguments, positional, keywords);
        End& end = end_of(self);
        Sender& sender = end.writer("enqueue_many");
        WaitOptions options{.timeout_ns = parse_timeout(timeout)};
        end.check_usable();
        std::uint64_t sent = 0;
        try {
            nb::object sequence = nb::borrow(objects);
            const bool fixed = PyList_CheckExact(objects) || PyTuple_CheckExact(objects);
            if (fixed) sequence = owned(PySequence_Tuple(objects));  // another thread may change a list
            if (fixed && all_bytes(nb::borrow<nb::tuple>(sequence))) {
                Call call(end, options);
                struct Announce {
                    Sender& sender;
                    ~Announce() { sender.announce(); }
                } announce_at_end{sender};
                for (nb::handle item : nb::borrow<nb::tuple>(sequence)) {
                    send_bytes(end, sender, item.ptr(), options, call.deadline_ns, self, ++sent % kAnnounceEvery != 0);
                }
            } else {
                const std::int64_t started = platform::monotonic_ns();
                for (nb::handle item : sequence) {
                    WaitOptions rest = options;
                    if (options.timeout_ns != kForever && options.timeout_ns != 0)
                        rest.timeout_ns =
                            std::max<std::int64_t>(0, options.timeout_ns - (platform::monotonic_ns() - started));
                    send(end, sender, item.ptr(), rest, self);
                    ++sent;
                }
            }
        } catch (nb::python_error& error) {
            if (PyObject_HasAttrString(error.value().ptr(), "sent")) error.value().attr("sent") = sent;
            throw;
        }
        return PyLong_FromUnsignedLongLong(sent);
    });
}

// ---- receiving
// -------------------------------------------------------------------------------------------------------

void await_message(End& end, Receiver& receiver, const WaitOptions& options, std::int64_t& deadline_ns,
                   PyObject* self) {
    while (!receiver.readable()) {
        receiver.check_end(false);
        if (receiver.readable()) return;
        end.wait(
            options, deadline_ns, self, [&] { return receiver.await_message_briefly(); },
            [&](std::int64_t until) { return receiver.await_message(until); }, [&] { receiver.check_end(true); },
            [] { return std::string("a message"); });
    }
}

// The next message, which is readable, as its own copy; the turn is given back before it is decoded.
PyObject* take(End& end, Receiver& receiver, std::optional<Call>& call) {
    const Receiver::Message message = receiver.current();
    nb::object payload = copy_payload(message);
    receiver.consume(message.length);
    receiver.settle();
    call.reset();
    if (message.encoding == Encoding::raw) return payload.release().ptr();
    return decode_payload(end.decode, std::move(payload), message.encoding, message.n_frames).release().ptr();
}

PyObject* receive(PyObject* self, End& end, Receiver& receiver, const WaitOptions& options) {
    std::optional<Call> call(std::in_place, end, options);
    if (!receiver.readable()) await_message(end, receiver, options, call->deadline_ns, self);
    return take(end, receiver, call);
}

PyObject* dequeue(PyObject* self, Arguments arguments, Py_ssize_t positional, PyObject* keywords) {
    return guarded(self, [&] {
        const auto [timeout, cancel, indefinite] =
            parse<3>("dequeue", {"timeout", "cancel", "indefinite"}, 0, arguments, positional, keywords);
        End& end = end_of(self);
        Receiver& receiver = end.reader("dequeue");
        return receive(self, end, receiver, WaitOptions{parse_timeout(timeout), cancel, parse_flag(indefinite)});
    });
}

PyObject* try_dequeue(PyObject* self, Arguments arguments, Py_ssize_t positional, PyObject* keywords) {
    return guarded(self, [&]() -> PyObject* {
        const auto [fallback] = parse<1>("try_dequeue", {"default"}, 0, arguments, positional, keywords);
        End& end = end_of(self);
        Receiver& receiver = end.reader("try_dequeue");
        std::optional<Call> call(std::in_place, end, WaitOptions{.timeout_ns = 0});
        if (!receiver.readable()) {
            receiver.check_end(true);
            if (!receiver.readable()) return Py_NewRef(fallback == nullptr ? Py_None : fallback);
        }
        return take(end, receiver, call);
    });
}

PyObject* dequeue_many(PyObject* self, Arguments arguments, Py_ssize_t positional, PyObject* keywords) {
    return guarded(self, [&] {
        const auto [max_n, timeout, cancel, indefinite] =
            parse<4>("dequeue_many", {"max_n", "timeout", "cancel", "indefinite"}, 1, arguments, positional, keywords);
        End& end = end_of(self);
        Receiver& receiver = end.reader("dequeue_many");
        const std::uint64_t most = parse_count("max_n", max_n);
        const WaitOptions options{parse_timeout(timeout), cancel, parse_flag(indefinite)};
        Call call(end, options);
        await_message(end, receiver, options, call.deadline_ns, self);
        nb::list messages;
        bool unsettled = false;
        do {
            const Receiver::Message message = receiver.current();
            nb::object payload = copy_payload(message);
            if (message.encoding == Encoding::object) {
                receiver.settle();
                unsettled = false;
                try {
                    payload = decode_payload(end.decode, std::move(payload), message.encoding, message.n_frames);
                } catch (nb::python_error&) {
                    // What came before it is handed out first; the next call meets this message again.
                    if (messages.size() != 0) break;
                    receiver.consume(message.length);
                    receiver.settle();
                    throw;
                }
            }
            receiver.consume(message.length);
            unsettled = true;
            messages.append(payload);
        } while (messages.size() < most && !receiver.stopped() && receiver.readable());
        if (unsettled) receiver.settle();
        return messages.release().ptr();
    });
}

// ---- chunks
// ----------------------------------------------------------------------------------------------------------

// The chunk's turn is held by this thread from opening to closing.
void check_open_chunk(End& end, const char* what) {
    if (end.in_chunk && end.endpoint().has_turn(platform::thread_id())) return;
    raise("BusyError", end.context() + ": " + what + " must be left by the thread that entered it, once");
}

PyObject* open_write(PyObject* self, Arguments arguments, Py_ssize_t positional, PyObject* keywords) {
    return guarded(self, [&] {
        const auto [nbytes, timeout] =
            parse<2>("_open_write", {"nbytes", "timeout"}, 2, arguments, positional, keywords);
        End& end = end_of(self);
        Sender& sender = end.writer("acquire_write");
        const WaitOptions options{.timeout_ns = parse_timeout(timeout)};
        end.check_usable();
        Call call(end, options);
        const std::uint64_t bytes =
            nbytes == Py_None ? sender.segment().geometry().max_chunk_bytes : parse_count("nbytes", nbytes);
        reserve(end, sender, bytes, end.room, options, call.deadline_ns, self);
        end.chunk = make_chunk(sender.shared_segment(), end.room.bytes, end.room.length);
        nb::object view = owned(PyMemoryView_FromObject(end.chunk.ptr()));
        end.in_chunk = true;
        call.keep();
        return view.release().ptr();
    });
}

PyObject* close_write(PyObject* self, PyObject* publish) {
    return guarded(self, [&] {
        End& end = end_of(self);
        Sender& sender = end.writer("acquire_write");
        if (end.endpoint().in_forked_child()) end.check_usable();
        check_open_chunk(end, "acquire_write");
        const nb::object chunk = std::move(end.chunk);
        const bool views_alive = chunk_has_views(chunk);
        const bool wanted = parse_flag(publish);
        if (wanted && !views_alive) sender.commit(end.room, Encoding::raw, 1);
        end.in_chunk = false;
        sender.give_turn_back();
        if (wanted && views_alive)
            raise("ViewsAliveError",
                  end.context() +
                      ": arrays or views of an acquire_write chunk are alive at the end of its block and could "
                      "change what readers see; nothing was published. Delete them (`del array`) inside the block");
        return Py_NewRef(Py_None);
    });
}

PyObject* open_read(PyObject* self, Arguments arguments, Py_ssize_t positional, PyObject* keywords) {
    return guarded(self, [&] {
        const auto [timeout, cancel, indefinite] =
            parse<3>("_open_read", {"timeout", "cancel", "indefinite"}, 3, arguments, positional, keywords);
        End& end = end_of(self);
        Receiver& receiver = end.reader("acquire_read");
        const WaitOptions options{parse_timeout(timeout), cancel, parse_flag(indefinite)};
        Call call(end, options);
        await_message(end, receiver, options, call.deadline_ns, self);
        const Receiver::Message message = receiver.current();
        nb::object payload = copy_payload(message);
        receiver.settle();
        nb::object view = owned(PyMemoryView_FromObject(payload.ptr()));
        end.chunk_length = message.length;
        end.in_chunk = true;
        call.keep();
        return view.release().ptr();
    });
}

PyObject* close_read(PyObject* self, PyObject*) {
    return guarded(self, [&] {
        End& end = end_of(self);
        Receiver& receiver = end.reader("acquire_read");
        if (end.endpoint().in_forked_child()) end.check_usable();
        check_open_chunk(end, "acquire_read");
        receiver.consume(end.chunk_length);
        end.in_chunk = false;
        // Evicted meanwhile? The bytes were checked when they were copied; the next call says it.
        try {
            receiver.settle();
        } catch (const Error&) {
        }
        receiver.give_turn_back();
        return Py_NewRef(Py_None);
    });
}

template <class Function>
PyCFunction as_c_function(Function* function) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

constexpr int kFast = METH_FASTCALL | METH_KEYWORDS;

PyMethodDef methods[] = {
    {"enqueue", as_c_function(&enqueue), kFast,
     "enqueue($self, obj, timeout=None)\n--\n\n"
     "Send obj to every reader; wait, at most timeout seconds, while the queue is full.\n\n"
     "An object that is exactly `bytes` travels as it is; anything else through pickle protocol 5.\n"
     "Raises QueueTimeoutError, QueueClosedError, MessageTooLargeError, EncodeError, CapacityError, ReaderDiedError;\n"
     "whatever it raises, nothing has been sent."},
    {"try_enqueue", as_c_function(&try_enqueue), METH_O,
     "try_enqueue($self, obj, /)\n--\n\nSend obj if there is room now. False if there is not."},
    {"enqueue_many", as_c_function(&enqueue_many), kFast,
     "enqueue_many($self, objs, timeout=None)\n--\n\n"
     "Send each of objs in order; timeout is for all of them together. Returns how many were sent.\n"
     "If it raises, the exception's `sent` attribute tells how many were."},
    {"dequeue", as_c_function(&dequeue), kFast,
     "dequeue($self, timeout=None, cancel=None, indefinite=False)\n--\n\n"
     "Receive the next message; wait for it at most timeout seconds.\n\n"
     "cancel is a threading.Event that ends the wait from another thread. indefinite=True says that a long wait is\n"
     "expected and is not to be logged.\n"
     "Raises QueueTimeoutError, WaitCancelledError, QueueClosedError (the writer closed and all is read, or this end "
     "was\n"
     "shut down), WriterDiedError, ReaderEvictedError, DecodeError (that message is consumed)."},
    {"try_dequeue", as_c_function(&try_dequeue), kFast,
     "try_dequeue($self, default=None)\n--\n\nReceive the next message if there is one, else return default."},
    {"dequeue_many", as_c_function(&dequeue_many), kFast,
     "dequeue_many($self, max_n, timeout=None, cancel=None, indefinite=False)\n--\n\n"
     "Wait for a message, then take all that are there, at most max_n. Returns a list."},
    {"_open_write", as_c_function(&open_write), kFast, nullptr},
    {"_close_write", as_c_function(&close_write), METH_O, nullptr},
    {"_open_read", as_c_function(&open_read), kFast, nullptr},
    {"_close_read", as_c_function(&close_read), METH_NOARGS, nullptr},
};

}  // namespace

PyObject* end_iternext(PyObject* self) {
    return guarded(self, [&]() -> PyObject* {
        End& end = end_of(self);
        Receiver& receiver = end.reader("iteration");
        try {
            return receive(self, end, receiver, WaitOptions{});
        } catch (const Error& error) {
            if (error.code() == ErrorCode::closed) return nullptr;  // the writer closed: StopIteration
            throw;
        }
    });
}

void add_end_methods(nb::object& type) {
    for (PyMethodDef& method : methods) {
        const nb::object descriptor = owned(PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(type.ptr()), &method));
        if (PyObject_SetAttrString(type.ptr(), method.ml_name, descriptor.ptr()) != 0) throw nb::python_error();
    }
}

}  // namespace ringcast::bindings
