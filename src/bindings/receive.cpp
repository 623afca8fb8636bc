// The calls of a reader: dequeue and its relatives.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "buffers.hpp"
#include "courtesy.hpp"
#include "methods.hpp"

namespace ringcast::bindings {

namespace {

WaitOptions wait_options(PyObject* timeout, PyObject* cancel, PyObject* indefinite) {
    return WaitOptions{parse_timeout(timeout), parse_cancel(cancel), parse_flag("indefinite", indefinite)};
}

// Until there is a message, in the ring or left over. False: the time is over, and the Python exception set.
[[nodiscard]] bool await_message(End& end, Receiver& receiver, const WaitOptions& options, std::int64_t& deadline_ns,
                                 PyObject* self) {
    while (!receiver.readable() && !end.left_over.any()) {
        receiver.check_end(false);
        if (receiver.readable()) return true;
        const bool goes_on = end.wait(
            options, deadline_ns, self, [&] { return receiver.await_message_briefly(); },
            [&](std::int64_t until) { return receiver.await_message(until); },
            [&](std::int64_t waited_ns) {
                receiver.check_end(waited_ns != 0 || receiver.life_look_due());
                return receiver.readable() || end.left_over.any();  // another thread's call was interrupted
            });
        if (!goes_on) {
            end.timed_out(options);
            return false;
        }
    }
    return true;
}

nb::object copy_payload(const Receiver::Message& message, const std::byte* bytes) {
    nb::object payload = owned(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(message.length)));
    copy_bytes(PyBytes_AS_STRING(payload.ptr()), bytes, message.length);
    return payload;
}

// Raw messages become bytes objects, which own theirs. What nobody will see of the buffer is read where it lies; what can
// be viewed, in the private mapping; the rest is copied. Does not settle.
Taken take_message(const End& end, Receiver& receiver) {
    const Receiver::Message message = receiver.current();
    const std::uint64_t position = receiver.position();
    const Codec& codec = end.codec;
    const bool shows = message.encoding == Encoding::raw || codec.shows_buffer(message.encoding, message.framed);
    if (message.in_block() && message.encoding != Encoding::raw) {
        const std::byte* bytes = message.bytes;
        Lease::Through through = Lease::Through::shared;
        if (shows) {
            const bool always = codec.copies() == Codec::Copies::always;
            bytes = always ? nullptr : receiver.view(message, codec.copies() == Codec::Copies::never);
            through = codec.writable() ? Lease::Through::private_writable : Lease::Through::private_readonly;
        }
        if (bytes != nullptr) {
            nb::object buffer = make_lease_buffer(bytes, message.length, shows && codec.writable());
            hold(buffer, receiver.consume_leased(message, through));
            return Taken{std::move(buffer), bytes, message, position};
        }
    }
    OwnBuffer own = make_own_buffer(message.length, shows && codec.writable() && message.encoding != Encoding::raw);
    copy_bytes(own.bytes, message.bytes, message.length);
    receiver.consume(message);
    return Taken{std::move(own.buffer), own.bytes, message, position};
}

nb::object object_of(const End& end, Taken& taken) {
    const Receiver::Message& m = taken.message;
    if (m.encoding == Encoding::raw) return taken.buffer;
    return end.codec.decode(taken.buffer, taken.bytes, m.length, m.encoding, m.framed, taken.tries);
}

// Without the turn. A message whose rebuilding is interrupted is the next to be handed out; one that cannot be rebuilt is
// consumed.
nb::object rebuilt(End& end, Taken taken) {
    try {
        return object_of(end, taken);
    } catch (...) {
        if (!taken.tries.refused) end.left_over.put(std::move(taken));
        throw;
    }
}

[[noreturn]] void raise_left_over(const nb::object& error) {
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
    throw nb::python_error();
}

// The next message of those that were left over, of which there are some.
[[gnu::noinline, gnu::cold]] PyObject* take_left_over(End& end, std::optional<Call>& call) {
    std::optional<LeftOver> left = end.left_over.next();
    call.reset();
    if (left->error.is_valid()) raise_left_over(left->error);
    return rebuilt(end, std::move(left->taken)).release().ptr();
}

// The next message, which is there; the turn is given back before it is decoded.
PyObject* take(End& end, Receiver& receiver, std::optional<Call>& call) {
    if (end.left_over.any()) [[unlikely]]
        return take_left_over(end, call);
    if (const Receiver::Message message = receiver.current(); message.encoding == Encoding::raw) [[likely]] {
        nb::object payload = copy_payload(message, message.bytes);  // the shortest way for the smallest messages
        receiver.consume(message);
        receiver.settle();
        call.reset();
        return payload.release().ptr();
    }
    Taken taken = take_message(end, receiver);
    receiver.settle();
    call.reset();
    return rebuilt(end, std::move(taken)).release().ptr();
}

PyObject* receive(PyObject* self, End& end, Receiver& receiver, const WaitOptions& options) {
    std::optional<Call> call(std::in_place, end, options);
    if (!receiver.readable() && !await_message(end, receiver, options, call->deadline_ns, self)) return nullptr;
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
        if (call && !receiver.readable() && !end.left_over.any()) {
            receiver.check_end(receiver.life_look_due());
            if (!receiver.readable()) call.reset();
        }
        if (!call) return Py_NewRef(fallback == nullptr ? Py_None : fallback);
        return take(end, receiver, call);
    });
}

constexpr std::uint64_t kSettleEvery = 32;  // messages that a waiting writer may be told of together

bool settles(Receiver& receiver) {
    try {
        receiver.settle();
        return true;
    } catch (const Error&) {  // evicted: the next call says it
        return false;
    }
}

void keep(End& end, std::vector<Taken>& batch, std::size_t from) {
    for (std::size_t i = from; i < batch.size(); ++i) end.left_over.put(std::move(batch[i]));
}

// What is there now, at most so many: what was left over, then what the ring has. With the turn.
void take_batch(End& end, Receiver& receiver, std::uint64_t most, std::vector<Taken>& batch) {
    while (end.left_over.any() && batch.size() < most) {
        std::optional<LeftOver> left = end.left_over.next();
        if (!left->error.is_valid()) {
            batch.push_back(std::move(left->taken));
            continue;
        }
        if (batch.empty()) raise_left_over(left->error);
        end.left_over.put(std::move(left->taken), std::move(left->error));
        return;
    }
    if (!receiver.readable()) return;
    const std::uint64_t there = std::max<std::uint64_t>(receiver.backlog(), 1);
    const std::uint64_t count = std::min(there, most - batch.size());
    batch.reserve(batch.size() + count);
    std::size_t settled = batch.size();
    Courtesy courtesy(16);
    const auto settle = [&] {
        if (settles(receiver)) settled = batch.size();
        batch.erase(batch.begin() + static_cast<std::ptrdiff_t>(settled), batch.end());  // torn, perhaps
    };
    try {
        for (std::uint64_t n = 0; n < count && !receiver.stopped() && receiver.readable(); ++n) {
            batch.push_back(take_message(end, receiver));
            if (n % kSettleEvery == kSettleEvery - 1) {
                receiver.settle();
                settled = batch.size();
            }
            if (courtesy.is_due()) courtesy.pause();
        }
        receiver.settle();
    } catch (const Error&) {  // the next call meets it again, after what came before it has been handed out
        settle();
        if (batch.empty()) throw;
    } catch (...) {
        settle();
        keep(end, batch, 0);
        throw;
    }
}

// Without the turn. If it is interrupted, all of the batch is left over; what cannot be rebuilt is consumed, and raised by
// the next call if anything comes before it.
nb::list rebuilt_batch(End& end, std::vector<Taken>& batch) {
    nb::list messages;
    Courtesy courtesy(batch.empty() || batch[0].message.encoding == Encoding::raw ? 16 : 1);
    std::size_t left_from = 0;
    try {
        for (std::size_t i = 0; i < batch.size(); ++i) {
            if (courtesy.is_due()) courtesy.pause();
            try {
                messages.append(object_of(end, batch[i]));
            } catch (nb::python_error& error) {
                if (!batch[i].tries.refused) throw;
                left_from = i + 1;
                if (i == 0) throw;
                end.left_over.put(std::move(batch[i]), nb::borrow(error.value()));
                keep(end, batch, i + 1);
                break;
            }
        }
    } catch (...) {
        keep(end, batch, left_from);
        throw;
    }
    return messages;
}

PyObject* dequeue_many(PyObject* self, Arguments arguments, Py_ssize_t positional, PyObject* keywords) {
    return guarded(self, [&]() -> PyObject* {
        const auto [max_n, timeout, cancel, indefinite] =
            parse<4>("dequeue_many", {"max_n", "timeout", "cancel", "indefinite"}, 1, arguments, positional, keywords);
        End& end = end_of(self);
        Receiver& receiver = end.reader("dequeue_many");
        const std::uint64_t most = parse_count("max_n", max_n);
        const WaitOptions options = wait_options(timeout, cancel, indefinite);
        std::optional<Call> call(std::in_place, end, options);
        if (!await_message(end, receiver, options, call->deadline_ns, self)) return nullptr;
        std::vector<Taken> batch;
        take_batch(end, receiver, most, batch);
        call.reset();
        return rebuilt_batch(end, batch).release().ptr();
    });
}

// What they do is said where MessageQueue declares them; see `documented`.
PyMethodDef methods[] = {
    {"dequeue", as_c_function(&dequeue), kFastCall,
     "dequeue($self, timeout=None, cancel=None, indefinite=False)\n--\n\n"},
    {"try_dequeue", as_c_function(&try_dequeue), kFastCall, "try_dequeue($self, default=None)\n--\n\n"},
    {"dequeue_many", as_c_function(&dequeue_many), kFastCall,
     "dequeue_many($self, max_n, timeout=None, cancel=None, indefinite=False)\n--\n\n"},
};

}  // namespace

TakenChunk await_chunk(End& end, Receiver& receiver, const WaitOptions& options, std::int64_t& deadline_ns,
                       PyObject* self) {
    TakenChunk chunk;
    if (!await_message(end, receiver, options, deadline_ns, self)) return chunk;
    std::optional<Receiver::Message> message;
    const std::byte* bytes = nullptr;
    if (end.left_over.any()) {
        std::optional<LeftOver> left = end.left_over.next();
        if (left->error.is_valid()) raise_left_over(left->error);
        // What was taken to be decoded may be no view that anybody may have.
        chunk.buffer = copy_payload(left->taken.message, left->taken.bytes);
    } else {
        message = receiver.current();
        if (message->in_block()) bytes = receiver.view(*message, true);
        chunk.buffer = bytes != nullptr ? make_lease_buffer(bytes, message->length, false)
                                        : copy_payload(*message, message->bytes);
    }
    // All that can fail comes before the lease: the message is still the current one, to be read by the next call.
    chunk.view = owned(PyMemoryView_FromObject(chunk.buffer.ptr()));
    if (message) {
        receiver.settle();
        if (bytes != nullptr) hold(chunk.buffer, receiver.peek_leased(*message, Lease::Through::private_readonly));
        receiver.open_chunk(*message);
    }
    return chunk;
}

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
