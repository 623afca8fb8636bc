#include "end.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <cstdio>

#include "modules.hpp"
#include "py_errors.hpp"

namespace ringcast::bindings {

using namespace nb::literals;

End::End(std::shared_ptr<Segment> segment, bool writer, std::optional<std::uint32_t> rank, const Strategy& strategy,
         nb::object encode_object, nb::object decode_object, nb::object report, std::int64_t report_interval_ns)
    : encode(std::move(encode_object)),
      decode(std::move(decode_object)),
      report_(std::move(report)),
      report_interval_ns_(report_interval_ns),
      label_(segment->label()) {
    owner_ = writer ? "writer" : "reader";
    if (writer) {
        if (!segment->is_creator()) raise("RoleError", label_ + ": only the process that made a queue writes to it");
        sender_ = std::make_unique<Sender>(std::move(segment), strategy);
        endpoint_ = sender_.get();
    } else {
        const Claim claim = claim_seat(*segment, rank);
        receiver_ = std::make_unique<Receiver>(std::move(segment), strategy, claim);
        endpoint_ = receiver_.get();
        owner_ += ", rank " + std::to_string(claim.rank);
    }
    owner_ += ", pid " + std::to_string(platform::process_id());
}

std::string End::context() const { return label_ + " (" + owner_ + ")"; }

void End::raise_role(const char* method) const {
    raise("RoleError", context() + ": " + method +
                           (is_writer() ? " is for readers; this is the writer's end" : " is for the writer; this is a reader's end"));
}

void End::raise_unusable() const {
    if (endpoint_->in_forked_child())
        raise("ForkedError",
              context() + ": this end belongs to a parent process and cannot be used in a forked child (pid " +
                  std::to_string(platform::process_id()) + "); attach in the child, or pass it a handle");
    raise("QueueClosedError", context() + ": this end has been shut down");
}

void End::after_slice(const WaitOptions& options, PyObject* self, std::int64_t& next_report_ns) {
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    check_usable();
    check_cancel(options);
    if (platform::monotonic_ns() < next_report_ns) return;
    next_report_ns += report_interval_ns_;
    endpoint_->counters().long_waits.fetch_add(1, std::memory_order_relaxed);
    const double seconds = static_cast<double>(platform::monotonic_ns() - endpoint_->waiter().started_ns()) / 1e9;
    if (!options.indefinite) report_(nb::handle(self), seconds);
}

void End::check_cancel(const WaitOptions& options) const {
    if (options.cancel == nullptr || options.cancel == Py_None) return;
    if (parse_flag(nb::object(nb::handle(options.cancel).attr("is_set")()).ptr()))
        raise("WaitCancelledError", context() + ": the wait was cancelled by its `cancel` event");
}

void End::raise_timeout(const WaitOptions& options, const std::string& waited_for) const {
    char seconds[32];
    std::snprintf(seconds, sizeof seconds, "%.3f", static_cast<double>(options.timeout_ns) / 1e9);
    raise("QueueTimeoutError", context() + ": waited " + seconds + " s for " + waited_for);
}

bool await_turn(Endpoint& endpoint, std::uint64_t thread, std::int64_t ns) {
    Turn& turn = endpoint.turn();
    const std::uint32_t enlisted = turn.enlist();
    bool taken = turn.try_take(thread);
    if (!taken) {
        nb::gil_scoped_release release_gil;
        turn.await(enlisted, ns);
    }
    turn.delist();
    return taken || turn.try_take(thread);
}

void Call::wait_for_turn(const WaitOptions& options) {
    held_ = false;
    Endpoint& e = end_.endpoint();
    const std::uint64_t thread = platform::thread_id();
    if (e.has_turn(thread))
        raise("BusyError", end_.context() + ": this thread is already inside a call on this end (an open acquire_write "
                                            "or acquire_read, or code that runs within a call)");
    const std::int64_t started = platform::monotonic_ns();
    deadline_ns = options.timeout_ns >= kForever - started ? kForever : started + options.timeout_ns;
    while (!held_) {
        const std::int64_t left = deadline_ns - platform::monotonic_ns();
        if (left <= 0)
            raise("QueueTimeoutError",
                  end_.context() + ": another thread was using this end for the whole time-out");
        held_ = await_turn(e, thread, std::min(left, kCancelPollNs));
        if (held_ && !e.stopped()) return;
        if (held_) {
            held_ = false;
            e.give_turn_back();
        }
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        end_.check_usable();
        end_.check_cancel(options);
    }
}

namespace {

WaitOptions wait_options(nb::handle timeout) { return WaitOptions{.timeout_ns = parse_timeout(timeout.ptr())}; }

// Collective: the writer waits for every rank, the readers for the writer's word that all are there.
// Returns the ranks that are missing when the time is over; empty: ready.
std::vector<std::uint32_t> await_ready(nb::handle self, End& end, nb::handle timeout) {
    const WaitOptions options = wait_options(timeout);
    Call call(end, options);
    const auto missing = [&] {
        std::vector<std::uint32_t> ranks = end.endpoint().segment().ranks();
        const auto& ring = end.endpoint().segment().ring();
        for (std::uint32_t i = 0; i < ring.n_seats; ++i)
            if (seat_state(ring.seats[i].state.load(std::memory_order_acquire)) == SeatState::active)
                std::erase(ranks, ring.seats[i].rank.load(std::memory_order_relaxed));
        return ranks;
    };
    try {
        if (end.is_writer()) {
            Sender& sender = end.writer("wait_until_ready");
            while (!sender.missing_ranks().empty())
                end.wait(
                    options, call.deadline_ns, self.ptr(), [] { return false; },
                    [&](std::int64_t until) { return sender.await_readers(until); }, [] {},
                    [] { return std::string("readers"); });
            sender.confirm_ready();
        } else {
            Receiver& receiver = end.reader("wait_until_ready");
            while (!receiver.all_ready())
                end.wait(
                    options, call.deadline_ns, self.ptr(), [] { return false; },
                    [&](std::int64_t until) { return receiver.await_all_ready(until); },
                    [&] { receiver.check_end(true); },
                    [] { return std::string("the writer to call wait_until_ready, too"); });
            receiver.refresh_placement();
        }
        return {};
    } catch (nb::python_error& error) {
        const auto timed_out = nb::module_::import_("ringcast.errors").attr("QueueTimeoutError");
        if (!error.matches(timed_out)) throw;
        auto ranks = missing();
        if (ranks.empty()) throw;  // all are there, but the writer has not said so
        return ranks;
    } catch (const Error& error) {
        raise(error, end.context());
    }
}

// Waits until no promised reader is missing that still has messages to get; how many messages stay undelivered.
std::uint64_t linger(End& end, nb::handle timeout) {
    const WaitOptions options = wait_options(timeout);
    Sender& sender = end.writer("linger");
    const std::int64_t started = platform::monotonic_ns();
    const std::int64_t deadline = options.timeout_ns >= kForever - started ? kForever : started + options.timeout_ns;
    std::uint64_t undelivered = sender.undelivered_to_expected();
    sender.waiter().begin();
    while (undelivered != 0 && platform::monotonic_ns() < deadline) {
        {
            nb::gil_scoped_release release_gil;
            sender.await_expected(deadline);
        }
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        undelivered = sender.undelivered_to_expected();
    }
    return undelivered;
}

// Shuts the end down, which ends the waits of other threads, and lets go of the memory. Where the turn stays taken, by
// an open chunk of another thread or by a call further up this thread's stack, that happens when it is given back.
std::uint64_t close(End& end, nb::handle linger_timeout) {
    constexpr std::int64_t kPatienceNs = 1'000'000'000;
    Endpoint& e = end.endpoint();
    if (e.in_forked_child()) return 0;
    const std::int64_t deadline = platform::monotonic_ns() + kPatienceNs;
    e.shut_down();
    struct Release {
        Endpoint& e;
        bool has_turn = false;
        ~Release() {
            e.release();
            if (has_turn) e.give_turn_back();
        }
    } release{e};
    const std::uint64_t thread = platform::thread_id();
    if (!e.has_turn(thread)) release.has_turn = e.try_take_turn(thread);
    while (!release.has_turn && !e.has_turn(thread) && platform::monotonic_ns() < deadline) {
        release.has_turn = await_turn(e, thread, kSliceNs);
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
    }
    const bool open = e.look([] {});
    return release.has_turn && open && end.is_writer() ? linger(end, linger_timeout) : 0;
}

std::uint64_t backlog(End& end) {
    std::uint64_t count = 0;
    end.check_usable();
    end.endpoint().look(
        [&] { count = end.is_writer() ? end.writer("qsize").backlog() : end.reader("qsize").backlog(); });
    return count;
}

nb::dict counters(End& end) {
    auto& c = end.endpoint().counters();
    nb::dict result;
    result["parks"] = c.parks.load(std::memory_order_relaxed);
    result["rescued_wakes"] = c.rescued_wakes.load(std::memory_order_relaxed);
    result["long_waits"] = c.long_waits.load(std::memory_order_relaxed);
    if (!end.is_writer()) {
        Receiver& receiver = end.reader("stats");
        result["messages"] = receiver.messages();
        result["bytes"] = receiver.bytes();
        result["seat"] = receiver.seat();
    }
    return result;
}

}  // namespace

void bind_end(nb::module_& module) {
    PyType_Slot slots[] = {{Py_tp_iternext, reinterpret_cast<void*>(&end_iternext)}, {0, nullptr}};
    nb::object type =
        nb::class_<End>(module, "End", nb::type_slots(slots), nb::is_weak_referenceable(), "One end of a queue.")
            .def(
                "__init__",
                [](End* self, std::shared_ptr<Segment> segment, bool writer, std::optional<std::uint32_t> rank,
                   std::tuple<std::int64_t, std::int64_t, std::int64_t, bool> strategy, nb::object encode,
                   nb::object decode, nb::object report, std::int64_t report_interval_ns) {
                    const auto [spin_ns, yield_ns, park_ns, adaptive] = strategy;
                    new (self) End(std::move(segment), writer, rank, Strategy{spin_ns, yield_ns, park_ns, adaptive},
                                   std::move(encode), std::move(decode), std::move(report), report_interval_ns);
                },
                "segment"_a, "writer"_a, "rank"_a.none(), "strategy"_a, "encode"_a, "decode"_a, "report"_a,
                "report_interval_ns"_a)
            .def_prop_ro("closed", [](End& end) { return end.endpoint().stopped(); })
            .def_prop_ro("_rank", [](End& end) { return end.reader("rank").rank(); })
            .def("shutdown", [](End& end) { end.endpoint().shut_down(); })
            .def(
                "evict",
                [](End& end, std::uint32_t rank) {
                    Sender& sender = end.writer("evict");
                    end.check_usable();
                    bool any = false;
                    end.endpoint().look([&] { any = sender.evict(rank); });
                    return any;
                },
                "rank"_a)
            .def("qsize", &backlog)
            .def(
                "_await_ready",
                [](nb::handle self, nb::handle timeout) { return await_ready(self, nb::cast<End&>(self), timeout); },
                "timeout"_a.none())
            .def("_close", &close, "linger"_a.none())
            .def("_counters", &counters);
    add_end_methods(type);
}

}  // namespace ringcast::bindings
