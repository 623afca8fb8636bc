// The type End, and its calls that are not on the path of a message.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <chrono>
#include <string>
#include <string_view>
#include <thread>

#include "board.hpp"
#include "counts.hpp"
#include "end.hpp"
#include "methods.hpp"
#include "modules.hpp"
#include "platform/clock.hpp"
#include "py_errors.hpp"
#include "threads.hpp"

namespace ringcast::bindings {

using namespace nb::literals;

namespace {

WaitOptions wait_options(nb::handle timeout) { return WaitOptions{.timeout_ns = parse_timeout(timeout.ptr())}; }

// The ranks without a reader; kNobody for each reader of another machine that has not come, whose rank nobody knows yet.
std::vector<std::uint32_t> missing_readers(const Segment& segment) {
    const auto& ring = segment.ring();
    std::vector<std::uint32_t> missing;
    const auto& ranks = segment.ranks();
    for (std::uint32_t i = 0; i < ranks.size(); ++i) {
        // Of a relay: a home that nobody is expected in is that of a reader of yet another machine.
        const bool comes_elsewhere =
            ranks[i] == kNobody &&
            seat_state(ring.seats[i].state.load(std::memory_order_relaxed)) != SeatState::expected;
        if (!comes_elsewhere && !has_reader(ring, ranks[i])) missing.push_back(ranks[i]);
    }
    for (std::uint32_t i = 0; i < ring.n_remote; ++i) {
        const PlacementState state = placement_state(ring.board[i]);
        if (state == PlacementState::attached || state == PlacementState::cut) continue;
        missing.push_back(is_taken(state) ? ring.board[i].rank.load(std::memory_order_relaxed) : kNobody);
    }
    return missing;
}

// Collective: the writer waits for every rank, the readers for the writer's word that all are there.
// Returns who is missing when the time is over (missing_readers); empty: ready.
std::vector<std::uint32_t> await_ready(nb::handle self, End& end, nb::handle timeout) {
    const WaitOptions options = wait_options(timeout);
    Call call(end, options);
    // All may be there without the writer's word for it.
    const auto give_up = [&](const std::string& waited_for) {
        auto ranks = missing_readers(end.endpoint().segment());
        if (ranks.empty()) end.raise_timeout(options, waited_for);
        return ranks;
    };
    try {
        if (end.is_writer()) {
            Sender& sender = end.writer("wait_until_ready");
            // A reader that attached and died is missing again: a restarted one may take its rank.
            const auto drop_dead = [&](std::int64_t waited_ns) {
                while (const auto eviction = sender.readers().check_all())
                    end.report_eviction(self.ptr(), *eviction, waited_ns);
                sender.readers().check_link();
                return false;
            };
            // Who does not wait, and finds somebody missing, need not know who else is.
            if (options.timeout_ns != 0 || sender.ready() || sender.life_look_due()) drop_dead(0);
            while (!sender.ready())
                if (options.timeout_ns == 0 ||
                    !end.wait(
                        options, call.deadline_ns, self.ptr(), [] { return false; },
                        [&](std::int64_t until) { return sender.await_ready(until); }, drop_dead))
                    return give_up("readers");
            sender.confirm_ready();
        } else {
            Receiver& receiver = end.reader("wait_until_ready");
            while (!receiver.all_ready()) {
                receiver.check_end(false);
                if (receiver.writer_closed())
                    raise("QueueClosedError",
                          end.context() + ": the writer has closed the queue, before all readers were there");
                const bool goes_on = end.wait(
                    options, call.deadline_ns, self.ptr(), [] { return false; },
                    [&](std::int64_t until) { return receiver.await_all_ready(until); },
                    [&](std::int64_t waited_ns) {
                        if (waited_ns != 0 || receiver.life_look_due()) receiver.check_writer_lives();
                        return false;
                    });
                if (!goes_on)
                    return give_up(end.writer_in_words(platform::Detail::at_hand) + " to call wait_until_ready, too");
            }
            receiver.refresh_placement();
        }
        return {};
    } catch (const Error& error) {
        raise(error, end.context());
    }
}

// Waits until no promised reader is missing that still has messages to get, and says which ranks will never get theirs;
// how many messages stay undelivered to a rank that has not come.
std::uint64_t linger(nb::handle self, End& end, nb::handle timeout) {
    const WaitOptions options{.timeout_ns = parse_seconds("linger", timeout.ptr())};
    Sender& sender = end.writer("linger");
    const std::int64_t started = platform::monotonic_ns();
    const std::int64_t deadline = options.timeout_ns >= kForever - started ? kForever : started + options.timeout_ns;
    sender.waiter().begin();
    while (sender.deliverable() != 0 && platform::monotonic_ns() < deadline) {
        {
            const Unlocked unlocked;
            sender.await_delivery(deadline);
        }
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
    }
    sender.waiter().finish(sender.undelivered() == 0);
    try {
        end.report_losses(self.ptr(), sender.readers().final_losses());
    } catch (const Error&) {  // the kernel does not say who lives: nothing is known that could be told
    }
    return sender.undelivered();
}

// Shuts the end down, which ends the waits of other threads, and lets go of the memory. Where the turn stays taken, by
// an open chunk of another thread or by a call further up this thread's stack, that happens when it is given back.
std::uint64_t close(nb::handle self, nb::handle linger_timeout) {
    End& end = nb::cast<End&>(self);
    constexpr std::int64_t kPatienceNs = 1'000'000'000;
    Endpoint& e = end.endpoint();
    if (e.in_forked_child()) return 0;
    const std::int64_t deadline = platform::monotonic_ns() + kPatienceNs;
    e.shut_down();
    end.lose_left_over();
    struct Release {
        Endpoint& e;
        bool has_turn = false;
        ~Release() {
            e.release();
            if (has_turn) e.give_turn_back();
        }
    } release{e};
    const std::uint64_t thread = platform::thread_id();
    if (!e.has_turn(thread))
        release.has_turn = take_turn(e, thread, deadline, [] {
            if (PyErr_CheckSignals() != 0) throw nb::python_error();
            return false;
        });
    const bool open = e.look([] {});
    return release.has_turn && open && end.is_writer() ? linger(self, end, linger_timeout) : 0;
}

// Promises the ranks every message from now on, if a handle has not done so before.
void promise(End& end) {
    constexpr std::int64_t kPatienceNs = 1'000'000'000;  // with readers that are just attaching or leaving
    Sender& sender = end.writer("export_handle");
    // In a forked child a handle is as good as in its parent, if the parent has exported one before.
    if (end.endpoint().in_forked_child() && end.endpoint().segment().is_promised()) return;
    end.check_usable();
    const std::int64_t deadline = platform::monotonic_ns() + kPatienceNs;
    bool done = false;
    while (end.endpoint().look([&] { done = sender.readers().promise(); }) && !done &&
           platform::monotonic_ns() < deadline) {
        const Unlocked unlocked;
        platform::nap();
    }
}

// Of a writer: its readers on other machines come through the link at whose desk it holds this place, on this host.
void rely_on(End& end, std::shared_ptr<Place> link, std::string host) {
    Sender& sender = end.writer("export_handle");
    end.endpoint().look([&] { sender.readers().rely_on(std::move(link), std::move(host)); });
}

// Shuts the end down as a process that is killed would, if it is a reader's: its promise stands, and the writer hears of
// it when it has to wait.
void abandon(End& end) {
    if (end.endpoint().in_forked_child()) return;
    if (!end.is_writer()) end.reader("close").fail();
    end.endpoint().shut_down();
    end.lose_left_over();
    end.endpoint().release();
}

PyObject* qsize(PyObject* self, PyObject*) {
    return guarded(self, [&] {
        End& end = end_of(self);
        std::uint64_t count = 0;
        end.check_usable();
        end.endpoint().look(
            [&] { count = end.is_writer() ? end.writer("qsize").backlog() : end.reader("qsize").backlog(); });
        return PyLong_FromUnsignedLongLong(count + end.left_over.count());
    });
}

PyObject* evict(PyObject* self, Arguments arguments, Py_ssize_t positional, PyObject* keywords) {
    return guarded(self, [&] {
        const auto [rank] = parse<1>("evict", {"rank"}, 1, arguments, positional, keywords);
        End& end = end_of(self);
        Sender& sender = end.writer("evict");
        const auto wanted = static_cast<std::uint32_t>(parse_int("rank", rank, 0, INT32_MAX));
        end.check_usable();
        bool any = false;
        end.endpoint().look([&] { any = sender.readers().evict(wanted); });
        return PyBool_FromLong(any ? 1 : 0);
    });
}

nb::dict counters(End& end) {
    end.check_not_forked();
    nb::dict result = as_dict(end.endpoint().counts());
    const std::int64_t since = end.endpoint().waiting_since_ns();
    result["waiting_ns"] = since == 0 ? 0 : platform::monotonic_ns() - since;
    if (end.is_writer() && !end.endpoint().stopped()) {
        // What readers have given back shows only when the writer looks; not now, if a call is using the arena.
        if (const std::uint64_t thread = platform::thread_id(); end.endpoint().try_take_turn(thread)) {
            struct GiveBack {
                Endpoint& e;
                ~GiveBack() { e.give_turn_back(); }
            } give_back{end.endpoint()};
            Sender& sender = end.writer("stats");
            end.endpoint().look([&] {
                sender.reclaim();
                result["scattered"] = sender.scattered_bytes();
            });
        }
    }
    if (!end.is_writer()) {
        Receiver& receiver = end.reader("stats");
        result["messages"] = receiver.messages();
        result["bytes"] = receiver.bytes();
        result["seat"] = receiver.seat();
    }
    return result;
}

// Of a reader: does this thread (threading.get_ident) wait for a message?
bool is_waiting(const End& end, std::uint64_t thread) {
    return !end.is_writer() && end.endpoint().waiting_since_ns() != 0 && end.endpoint().has_turn(thread);
}

// For a process that is about to end and may not get to close its ends, because something else waits for ever: shuts
// them down after a while, without Python. They are kept for as long as the process lives.
void shut_down_after(double seconds, const nb::list& ends) {
    std::vector<Endpoint*> endpoints;
    for (nb::handle end : ends) endpoints.push_back(&nb::cast<End&>(nb::handle(end.inc_ref())).endpoint());
    start_without_signals([seconds, endpoints = std::move(endpoints)] {
        std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
        End::note_exit();
        for (Endpoint* endpoint : endpoints) endpoint->shut_down();
    }).detach();
}

// Gives a native method the documentation that was written where Python declares it; its signature stays. Returns it.
nb::object documented(nb::object method, std::optional<std::string> text) {
    if (Py_TYPE(method.ptr()) != &PyMethodDescr_Type) throw nb::type_error("only a method of a native type");
    PyMethodDef* definition = reinterpret_cast<PyMethodDescrObject*>(method.ptr())->d_method;
    constexpr std::string_view kEnd = "--\n\n";
    const std::string_view known = definition->ml_doc == nullptr ? "" : definition->ml_doc;
    const std::size_t end = known.find(kEnd);
    if (!text || end == std::string_view::npos) return method;
    // Kept for ever, as the method's definition is: whoever asks for the documentation reads it without a lock.
    definition->ml_doc = (new std::string(std::string(known.substr(0, end + kEnd.size())) + *text))->c_str();
    return method;
}

}  // namespace

void add_relay_methods(nb::class_<End>& type);

void bind_end(nb::module_& module) {
    static PyMethodDef methods[] = {
        {"evict", as_c_function(&evict), kFastCall, "evict($self, rank)\n--\n\n"},
        {"qsize", &qsize, METH_NOARGS, "qsize($self)\n--\n\n"},
    };
    static PyMethodDef subscript = {"__class_getitem__", &Py_GenericAlias, METH_O | METH_CLASS,
                                    "What type checkers know the messages by: End[dict]."};
    PyType_Slot slots[] = {{Py_tp_iternext, reinterpret_cast<void*>(&end_iternext)}, {0, nullptr}};
    auto type =
        nb::class_<End>(module, "End", nb::type_slots(slots), nb::is_weak_referenceable(), "One end of a queue.")
            .def(
                "__init__",
                [](End* self, std::shared_ptr<Segment> segment, bool writer, std::optional<std::uint32_t> rank,
                   std::tuple<std::int64_t, std::int64_t, std::int64_t, bool> strategy,
                   std::tuple<int, int, int, std::int64_t> policy, nb::object codec, nb::object reporter,
                   std::int64_t report_interval_ns) {
                    const auto [spin_ns, yield_ns, park_ns, adaptive] = strategy;
                    const auto [dead, slow, left, patience_ns] = policy;
                    new (self)
                        End(std::move(segment), writer, rank, Strategy{spin_ns, yield_ns, park_ns, adaptive},
                            ReaderPolicy{static_cast<ReaderPolicy::Dead>(dead), static_cast<ReaderPolicy::Slow>(slow),
                                         static_cast<ReaderPolicy::Left>(left), patience_ns},
                            codec, std::move(reporter), report_interval_ns);
                },
                "segment"_a, "writer"_a, "rank"_a.none(), "strategy"_a, "policy"_a, "codec"_a, "reporter"_a,
                "report_interval_ns"_a)
            .def_prop_ro(
                "closed", [](End& end) { return end.endpoint().stopped(); },
                "Whether this end has been shut down or closed.")
            .def_prop_ro("_rank", [](End& end) { return end.reader("rank").rank(); })
            .def("shutdown", [](End& end) { end.endpoint().shut_down(); })
            .def("_rouse", [](End& end) { end.endpoint().rouse(); })
            .def_prop_ro("_context", &End::context)
            .def("_awaited",
                 [](const End& end) {
                     std::string text = "nothing: it is closed";
                     end.endpoint().look([&] { text = end.awaited(platform::Detail::looked_up); });
                     return text;
                 })
            .def_prop_ro("_why_closed", [](const End&) { return End::why_closed(); })
            .def("_check_not_forked", &End::check_not_forked)
            .def_ro("_skipped", &End::skipped)
            .def("_promise", &promise)
            .def("_rely_on", &rely_on, "link"_a, "host"_a)
            .def("_abandon", &abandon)
            .def(
                "_await_ready",
                [](nb::handle self, nb::handle timeout) { return await_ready(self, nb::cast<End&>(self), timeout); },
                "timeout"_a.none())
            .def("_is_waiting", &is_waiting, "thread"_a)
            .def_prop_ro(
                "_in_use", [](const End& end) { return end.endpoint().turn().is_taken(); },
                "Whether a call of some thread, or an open chunk, has its turn.")
            .def(
                "_report_wait",
                [](nb::handle self, double seconds, double due) {
                    return nb::cast<End&>(self).report_wait(self.ptr(), seconds, due);
                },
                "seconds"_a, "due"_a)
            .def("_close", &close, "linger"_a.none())
            .def("_counters", &counters);
    module.def("note_exit", &End::note_exit);
    module.def("shut_down_after", &shut_down_after, "seconds"_a, "ends"_a);
    const nb::object of_messages =
        owned(PyDescr_NewClassMethod(reinterpret_cast<PyTypeObject*>(type.ptr()), &subscript));
    if (PyObject_SetAttrString(type.ptr(), subscript.ml_name, of_messages.ptr()) != 0) throw nb::python_error();
    module.def("documented", &documented, "method"_a, "text"_a.none());
    add_methods(type, methods, std::size(methods));
    add_send_methods(type);
    add_receive_methods(type);
    add_relay_methods(type);
}

}  // namespace ringcast::bindings
