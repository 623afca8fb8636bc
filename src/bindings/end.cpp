#include "end.hpp"

#include <nanobind/stl/string.h>
#include <algorithm>
#include <cstdio>

#include "methods.hpp"
#include "py_errors.hpp"

namespace ringcast::bindings {

namespace {
std::string in_seconds(std::int64_t ns) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3f", static_cast<double>(ns) / 1e9);
    return text;
}
}  // namespace

End::End(std::shared_ptr<Segment> segment, bool writer, std::optional<std::uint32_t> rank, const Strategy& strategy,
         const ReaderPolicy& policy, const nb::object& codec_object, nb::object reporter,
         std::int64_t report_interval_ns)
    : codec(codec_object),
      reporter_(std::move(reporter)),
      report_interval_ns_(report_interval_ns),
      label_(segment->label()),
      segment_name_(segment->name()) {
    owner_ = writer ? "writer" : "reader";
    if (writer) {
        if (!segment->is_creator()) raise("RoleError", label_ + ": only the process that made a queue writes to it");
        owner_ += ", pid " + std::to_string(platform::process_id());
        sender_ = std::make_unique<Sender>(std::move(segment), strategy, policy);
        endpoint_ = sender_.get();
    } else {
        const Claim claim = claim_seat(*segment, rank);
        owner_ += ", rank " + std::to_string(claim.rank) + ", pid " + std::to_string(platform::process_id());
        const bool is_relay = segment->is_relay();  // which may begin with what was sent later
        receiver_ = std::make_unique<Receiver>(std::move(segment), strategy, claim);
        // In the place of the last message that it has missed.
        if (claim.evicted && (claim.first > 0 || is_relay))
            left_over.put(Taken{nb::object(), nullptr, {}, claim.first - 1}, evicted_before_it_came(claim, is_relay));
        skipped = claim.skipped;
        endpoint_ = receiver_.get();
    }
}

namespace {

// Is an exception on its way that makes whoever does not catch it fail?
bool fails() {
    if (PyErr_Occurred() == nullptr || PyErr_ExceptionMatches(PyExc_GeneratorExit) != 0 ||
        PyErr_ExceptionMatches(PyExc_StopIteration) != 0)
        return false;
    if (PyErr_ExceptionMatches(PyExc_SystemExit) == 0) return true;
    nb::python_error exit;  // takes the exception
    const nb::object code = nb::getattr(exit.value(), "code", nb::none());
    const bool failed = !code.is_none() && !code.equal(nb::int_(0));
    exit.restore();
    return failed;
}

}  // namespace

void End::lose_left_over() noexcept {
    if (receiver_ == nullptr || !left_over.any() || endpoint_->in_forked_child()) return;
    const auto lost = left_over.drop();
    const auto is_message = [](const auto& each) {
        return each.second.taken.buffer.is_valid();
    };  // else an error alone
    const auto first = std::find_if(lost.begin(), lost.end(), is_message);
    const auto count = static_cast<std::uint64_t>(std::count_if(lost.begin(), lost.end(), is_message));
    if (count == 0) return;
    endpoint_->look([&] { receiver_->note_lost(count); });
    const nb::error_scope in_flight;
    try {
        reporter_.attr("left_over")(context(), segment_name_, receiver_->rank(), first->first, count);
    } catch (nb::python_error& error) {
        error.discard_as_unraisable("ringcast");
    }
}

End::~End() {
    lose_left_over();
    // A reader that is collected because an exception leaves the code that used it has not read what it was to read.
    if (receiver_ != nullptr && !receiver_->stopped() && fails()) receiver_->fail();
}

// For the first call that receives: what was sent until now is lost to this rank, and it goes on from here.
nb::object End::evicted_before_it_came(const Claim& claim, bool is_relay) const {
    const std::string missed =
        is_relay ? "what was sent until it came" : "the messages before " + std::to_string(claim.first);
    const nb::object error =
        nb::module_::import_("ringcast.errors")
            .attr("ReaderEvictedError")(context() + ": the writer gave up waiting for rank " +
                                        std::to_string(claim.rank) + " before it attached; it has missed " + missed +
                                        ", and the next call goes on from there");
    error.attr("rank") = claim.rank;
    error.attr("pid") = platform::process_id();
    return error;
}

std::atomic<bool> End::exiting_{false};

std::string End::context() const { return label_ + " (" + owner_ + ")"; }

std::string End::why_closed() {
    return exiting_.load(std::memory_order_relaxed) ? ", because the interpreter is exiting" : "";
}

std::string End::awaited(platform::Detail detail) const {
    if (is_writer()) return sender_->explain_wait(detail);
    return "a message from " + writer_in_words(detail);
}

std::string End::writer_in_words(platform::Detail detail) const {
    const Segment& segment = endpoint_->segment();
    const Header& header = segment.header();
    const std::string maker = platform::describe_process(header.creator_pid, header.creator_pid_namespace, detail);
    if (!segment.is_relay()) return "the writer (" + maker + ")";
    const Source source = segment.source();
    return "the writer (host " + source.host + ", pid " + std::to_string(source.pid) + "), through the link here (" +
           maker + ")";
}

void End::raise_role(const char* method) const {
    check_not_forked();
    raise("RoleError", context() + ": " + method +
                           (is_writer() ? " is for readers; this is the writer's end"
                                        : " is for the writer; this is a reader's end"));
}

void End::raise_unusable() const {
    if (endpoint_->in_forked_child())
        raise("ForkedError",
              context() + ": this end belongs to a parent process and cannot be used in a forked child (pid " +
                  std::to_string(platform::process_id()) +
                  "); pass the child the queue's export_handle() and make an end there with create_from_handle, or "
                  "attach by name");
    raise("QueueClosedError", context() + ": this end has been shut down" + why_closed());
}

bool End::after_slice(const WaitOptions& options, PyObject* self, WaitReports& due) {
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    check_usable();
    check_cancel(options);
    const bool polls = check_wanted(due.interest);
    const std::int64_t now = platform::monotonic_ns();
    const double seconds = static_cast<double>(now - endpoint_->waiter().started_ns()) / 1e9;
    if (now >= due.self_wait_ns) {
        due.self_wait_ns = kForever;  // once a wait
        if (!options.indefinite) reporter_.attr("self_wait")(nb::handle(self), seconds);
    }
    report_changed_reach(self);
    if (now < due.long_wait_ns) return polls;
    due.long_wait_ns = now + report_interval_ns_;
    endpoint_->count_long_wait();
    if (!options.indefinite) reporter_.attr("long_wait")(nb::handle(self), seconds);
    return polls;
}

void End::report_changed_reach(PyObject* self) {
    if (receiver_ == nullptr) return;
    std::string host;
    bool cut = false;
    const bool is_open = endpoint_->look([&] {
        const Segment& segment = receiver_->segment();
        if (!segment.is_relay()) return;
        cut = segment.ring().control->out_of_reach.load(std::memory_order_relaxed) != 0;
        host = segment.source().host;
    });
    if (is_open && out_of_reach_.exchange(cut, std::memory_order_relaxed) != cut)
        report_reach(self, kNobody, host, cut);
}

double End::report_wait(PyObject* self, double seconds, double due) {
    report_changed_reach(self);
    const double interval = static_cast<double>(report_interval_ns_) / 1e9;
    if (due == 0) return interval;
    if (seconds < due) return due;
    endpoint_->count_long_wait();
    reporter_.attr("long_wait")(nb::handle(self), seconds);
    return seconds + interval;
}

void End::report_eviction(PyObject* self, const Eviction& eviction, std::int64_t waited_ns) const {
    const char* const causes[] = {"dead", "slow", "absent", "linkless"};
    reporter_.attr("eviction")(nb::handle(self), eviction.rank, eviction.pid,
                               causes[static_cast<std::size_t>(eviction.cause)], eviction.behind,
                               static_cast<double>(waited_ns) / 1e9);
}

void End::report_reach(PyObject* self, std::uint32_t rank, const std::string& host, bool cut) const {
    reporter_.attr("reach")(nb::handle(self), rank, host, cut);
}

void End::report_chunk_wait(std::int64_t waited_ns) const {
    reporter_.attr("chunk_wait")(nb::find(*this), static_cast<double>(waited_ns) / 1e9);
}

void End::report_losses(PyObject* self, const std::vector<Loss>& losses) const {
    const char* const causes[] = {"left", "died"};
    for (const Loss& loss : losses)
        reporter_.attr("loss")(nb::handle(self), loss.rank, loss.pid, causes[static_cast<std::size_t>(loss.cause)],
                               loss.first, loss.count, loss.absent);
}

void End::check_cancel(const WaitOptions& options) const {
    if (options.cancel == nullptr || options.cancel == Py_None) return;
    const nb::object set = nb::handle(options.cancel).attr("is_set")();
    const int truth = PyObject_IsTrue(set.ptr());
    if (truth < 0) throw nb::python_error();
    if (truth != 0) raise("WaitCancelledError", context() + ": the wait was cancelled by its `cancel` event");
}

bool End::check_wanted(Interest& interest) const {
    const Wanted wanted = interest.look();
    if (wanted == Wanted::no_more)
        raise("WaitCancelledError", context() +
                                        ": the wait was given up, because the asyncio future that it was for has been "
                                        "cancelled or its loop ends; `await aget()` waits without a thread of a pool");
    return wanted == Wanted::for_now;
}

nb::object End::timeout_text(const WaitOptions& options, const std::string& waited_for) const {
    std::string text;
    text.reserve(256);
    text.append(label_).append(" (").append(owner_).append("): waited ");
    text.append(options.timeout_ns == 0 ? "0.000" : in_seconds(options.timeout_ns))
        .append(" s for ")
        .append(waited_for);
    return owned(PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
}

void End::raise_timeout(const WaitOptions& options, const std::string& waited_for) const {
    PyErr_SetObject(timeout_error().ptr(), timeout_text(options, waited_for).ptr());
    throw nb::python_error();
}

PyObject* End::timed_out(const WaitOptions& options) {
    const bool waited = options.timeout_ns != 0;
    if (!waited && nothing_there_.is_valid()) {
        PyErr_SetObject(timeout_error().ptr(), nothing_there_.ptr());
        return nullptr;
    }
    const nb::object text =
        timeout_text(options, awaited(waited ? platform::Detail::looked_up : platform::Detail::at_hand));
    if (!waited && !is_writer()) nothing_there_ = text;
    PyErr_SetObject(timeout_error().ptr(), text.ptr());
    return nullptr;
}

void End::check_nesting() const {
    if (endpoint_->has_turn(platform::thread_id()) || endpoint_->opened_chunk())
        raise("BusyError", context() +
                               ": this thread is already inside a call on this end (an open acquire_write or "
                               "acquire_read, or code that runs within a call)");
}

void Call::wait_for_turn(const WaitOptions& options) {
    held_ = false;
    end_.check_nesting();
    const std::int64_t started = platform::monotonic_ns();
    deadline_ns = options.timeout_ns >= kForever - started ? kForever : started + options.timeout_ns;
    bool told = options.indefinite;
    Interest interest;
    held_ = take_turn(end_.endpoint(), platform::thread_id(), deadline_ns, [&] {
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        end_.check_usable();
        const std::int64_t waited_ns = platform::monotonic_ns() - started;
        if (!told && waited_ns >= kSelfWaitNs && end_.endpoint().has_open_chunk()) {
            told = true;  // once a wait
            end_.report_chunk_wait(waited_ns);
        }
        end_.check_cancel(options);
        return end_.check_wanted(interest) || (options.cancel != nullptr && options.cancel != Py_None);
    });
    if (!held_)
        raise("QueueTimeoutError", end_.context() + ": waited " + in_seconds(options.timeout_ns) +
                                       " s, but another thread was using this end all the time" +
                                       (end_.endpoint().has_open_chunk() ? ", by a chunk that it has not left" : ""));
    if (!end_.endpoint().stopped()) return;
    held_ = false;  // this constructor's object will not be destroyed
    end_.endpoint().give_turn_back();
    end_.check_usable();
}

std::optional<Call> Call::without_waiting(End& end) {
    end.check_usable();
    if (end.endpoint().try_take_turn(platform::thread_id())) return Call(end);
    end.endpoint().drop_orphaned_chunk();
    if (end.endpoint().try_take_turn(platform::thread_id())) return Call(end);
    end.check_nesting();
    return std::nullopt;
}

void add_methods(nb::handle type, PyMethodDef* methods, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        const nb::object method = owned(PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(type.ptr()), &methods[i]));
        if (PyObject_SetAttrString(type.ptr(), methods[i].ml_name, method.ptr()) != 0) throw nb::python_error();
    }
}

}  // namespace ringcast::bindings
