// The calls of a reader: dequeue and its relatives.
#include <optional>
#include <string>

#include "arguments.hpp"
#include "buffers.hpp"
#include "methods.hpp"

namespace ringcast::bindings {

namespace {

WaitOptions wait_options(PyObject* timeout, PyObject* cancel, PyObject* indefinite) {
    return WaitOptions{parse_timeout(timeout), parse_cancel(cancel), parse_flag("indefinite", indefinite)};
}

constexpr auto kNoFurtherCheck = [] {};

// `further_check` runs between parks and may throw.
template <class Check = decltype(kNoFurtherCheck)>
void await_message(End& end, Receiver& receiver, const WaitOptions& options, std::int64_t& deadline_ns, PyObject* self,
                   const Check& further_check = kNoFurtherCheck) {
    while (!receiver.readable()) {
        receiver.check_end(false);
        if (receiver.readable()) return;
        end.wait(
            options, deadline_ns, self, [&] { return receiver.await_message_briefly(); },
            [&](std::int64_t until) { return receiver.await_message(until); },
            [&](std::int64_t) {
                receiver.check_end(true);
                further_check();
                return false;
            },
            [&] { return end.awaited(); });
    }
}

// What dequeue_many left to be raised.
[[noreturn, gnu::noinline, gnu::cold]] void raise_deferred_error(End& end) {
    const nb::object error = std::move(end.deferred_error);
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
    throw nb::python_error();
}
void raise_deferred(End& end) {
    if (end.deferred_error.is_valid()) raise_deferred_error(end);
}

// A message taken out of the ring: a copy of its bytes, or a lease on its block.
struct Taken {
    nb::object buffer;
    const std::byte* bytes;
    Receiver::Message message;
    bool leased;
};

nb::object copy_payload(const Receiver::Message& message) {
    nb::object payload = owned(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(message.length)));
    copy_bytes(PyBytes_AS_STRING(payload.ptr()), message.bytes, message.length);
    return payload;
}

// Raw messages become bytes objects, which own theirs. Does not settle.
Taken take_message(Receiver& receiver) {
    const Receiver::Message message = receiver.current();
    if (message.in_block() && message.encoding != Encoding::raw)
        return Taken{make_lease(receiver.consume_leased(message)), message.bytes, message, true};
    nb::object payload = copy_payload(message);
    receiver.consume(message);
    const auto* bytes = reinterpret_cast<const std::byte*>(PyBytes_AS_STRING(payload.ptr()));
    return Taken{std::move(payload), bytes, message, false};
}

nb::object object_of(const End& end, Taken taken) {
    const Receiver::Message& m = taken.message;
    if (m.encoding == Encoding::raw) return std::move(taken.buffer);
    return end.codec.decode(taken.buffer, taken.bytes, m.length, m.encoding, m.framed, taken.leased);
}

// The next message, which is readable; the turn is given back before it is decoded.
PyObject* take(End& end, Receiver& receiver, std::optional<Call>& call) {
    if (const Receiver::Message message = receiver.current(); message.encoding == Encoding::raw) [[likely]] {
        nb::object payload = copy_payload(message);  // the shortest way for the smallest messages
        receiver.consume(message);
        receiver.settle();
        call.reset();
        return payload.release().ptr();
    }
    Taken taken = take_message(receiver);
    receiver.settle();
    call.reset();
    return object_of(end, std::move(taken)).release().ptr();
}

PyObject* receive(PyObject* self, End& end, Receiver& receiver, const WaitOptions& options) {
    std::optional<Call> call(std::in_place, end, options);
    raise_deferred(end);
    if (!receiver.readable()) await_message(end, receiver, options, call->deadline_ns, self);
    return take(end, receiver, call);
}

PyObject* dequeue(PyObject* self, Arguments arguments, Py_ssize_t positional, PyObject* keywords) {
    return guarded(self, [&] {
        const auto [timeout, cancel, indefinite] =
            parse<3>("dequeue", {"timeout", "cancel", "indefinite"}, 0, arguments, positional, keywords);
        End& end = end_of(self);
        Receiver& receiver = end.reader("dequeue");
        return receive(self, end, receiver, wait_options(timeout, cancel, indefinite));
    });
}

PyObject* try_dequeue(PyObject* self, Arguments arguments, Py_ssize_t positional, PyObject* keywords) {
    return guarded(self, [&]() -> PyObject* {
        const auto [fallback] = parse<1>("try_dequeue", {"default"}, 0, arguments, positional, keywords);
        End& end = end_of(self);
        Receiver& receiver = end.reader("try_dequeue");
        std::optional<Call> call = Call::without_waiting(end);
        if (call) raise_deferred(end);
        if (call && !receiver.readable()) {
            receiver.check_end(true);
            if (!receiver.readable()) call.reset();
        }
        if (!call) return Py_NewRef(fallback == nullptr ? Py_None : fallback);
        return take(end, receiver, call);
    });
}

// Waits as dequeue does, and takes nothing: the next call that takes finds a message, or raises what this raises.
// `cancel` is looked at only when a park is over, since whoever sets it does not wait for the answer: no end polls faster.
PyObject* await_readable(PyObject* self, Arguments arguments, Py_ssize_t positional, PyObject* keywords) {
    return guarded(self, [&] {
        const auto [cancel] = parse<1>("_await_readable", {"cancel"}, 1, arguments, positional, keywords);
        End& end = end_of(self);
        Receiver& receiver = end.reader("aget");
        const WaitOptions options{.cancel = cancel};
        Call call(end, options);
        if (!end.deferred_error.is_valid())
            await_message(end, receiver, WaitOptions{}, call.deadline_ns, self, [&] { end.check_cancel(options); });
        return Py_NewRef(Py_None);
    });
}

PyObject* dequeue_many(PyObject* self, Arguments arguments, Py_ssize_t positional, PyObject* keywords) {
    return guarded(self, [&] {
        const auto [max_n, timeout, cancel, indefinite] =
            parse<4>("dequeue_many", {"max_n", "timeout", "cancel", "indefinite"}, 1, arguments, positional, keywords);
        End& end = end_of(self);
        Receiver& receiver = end.reader("dequeue_many");
        const std::uint64_t most = parse_count("max_n", max_n);
        const WaitOptions options = wait_options(timeout, cancel, indefinite);
        Call call(end, options);
        raise_deferred(end);
        await_message(end, receiver, options, call.deadline_ns, self);
        nb::list messages;
        bool unsettled = false;
        do {
            Taken taken = take_message(receiver);
            unsettled = taken.message.encoding == Encoding::raw;
            if (!unsettled) receiver.settle();
            try {
                messages.append(object_of(end, std::move(taken)));
            } catch (nb::python_error& error) {
                // What came before it is handed out first; the next call raises it.
                if (messages.size() == 0 || !error.matches(PyExc_Exception)) throw;
                end.deferred_error = nb::borrow(error.value());
                break;
            }
        } while (messages.size() < most && !receiver.stopped() && receiver.readable());
        if (unsettled) receiver.settle();
        return messages.release().ptr();
    });
}

PyObject* open_read(PyObject* self, Arguments arguments, Py_ssize_t positional, PyObject* keywords) {
    return guarded(self, [&] {
        const auto [timeout, cancel, indefinite] =
            parse<3>("_open_read", {"timeout", "cancel", "indefinite"}, 3, arguments, positional, keywords);
        End& end = end_of(self);
        Receiver& receiver = end.reader("acquire_read");
        const WaitOptions options = wait_options(timeout, cancel, indefinite);
        Call call(end, options);
        raise_deferred(end);
        await_message(end, receiver, options, call.deadline_ns, self);
        const Receiver::Message message = receiver.current();
        nb::object buffer;
        if (message.in_block())
            buffer = make_lease(receiver.peek_leased(message));
        else
            buffer = copy_payload(message);
        receiver.settle();
        nb::object view = owned(PyMemoryView_FromObject(buffer.ptr()));
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
        receiver.advance(end.chunk_length);
        end.in_chunk = false;
        // Evicted meanwhile? The bytes were checked when they were taken; the next call says it.
        try {
            receiver.settle();
        } catch (const Error&) {
        }
        receiver.give_turn_back();
        return Py_NewRef(Py_None);
    });
}

PyMethodDef methods[] = {
    {"dequeue", as_c_function(&dequeue), kFastCall,
     "dequeue($self, timeout=None, cancel=None, indefinite=False)\n--\n\n"
     "Receive the next message; wait for it at most timeout seconds.\n\n"
     "cancel is a threading.Event that ends the wait from another thread. indefinite=True says that a long wait is\n"
     "expected and is not to be logged.\n"
     "Raises QueueTimeoutError, WaitCancelledError, QueueClosedError (the writer closed and all is read, or this end "
     "was\n"
     "shut down), WriterDiedError, ReaderEvictedError, DecodeError (that message is consumed)."},
    {"try_dequeue", as_c_function(&try_dequeue), kFastCall,
     "try_dequeue($self, default=None)\n--\n\nReceive the next message if there is one, else return default."},
    {"dequeue_many", as_c_function(&dequeue_many), kFastCall,
     "dequeue_many($self, max_n, timeout=None, cancel=None, indefinite=False)\n--\n\n"
     "Wait for a message, then take all that are there, at most max_n. Returns a list."},
    {"_await_readable", as_c_function(&await_readable), kFastCall, nullptr},
    {"_open_read", as_c_function(&open_read), kFastCall, nullptr},
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

void add_receive_methods(nb::handle type) { add_methods(type, methods, std::size(methods)); }

}  // namespace ringcast::bindings
