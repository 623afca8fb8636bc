// The calls of a reader: dequeue and its relatives.
#include <optional>
#include <string>

#include "arguments.hpp"
#include "frames.hpp"
#include "methods.hpp"

namespace ringcast::bindings {

namespace {

void await_message(End& end, Receiver& receiver, const WaitOptions& options, std::int64_t& deadline_ns,
                   PyObject* self) {
    while (!receiver.readable()) {
        receiver.check_end(false);
        if (receiver.readable()) return;
        end.wait(
            options, deadline_ns, self, [&] { return receiver.await_message_briefly(); },
            [&](std::int64_t until) { return receiver.await_message(until); }, [&] { receiver.check_end(true); },
            [&] {
                return "a message from the writer (pid " + std::to_string(receiver.segment().header().creator_pid) +
                       ")";
            });
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
        std::optional<Call> call = Call::without_waiting(end);
        if (call && !receiver.readable()) {
            receiver.check_end(true);
            if (!receiver.readable()) call.reset();
        }
        if (!call) return Py_NewRef(fallback == nullptr ? Py_None : fallback);
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
                } catch (nb::python_error& error) {
                    // What came before it is handed out first; the next call meets this message again.
                    if (messages.size() != 0 && error.matches(PyExc_Exception)) break;
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
