// The Python type End: one end of a queue, base class of MessageQueue and ShmRingBuffer.
//
// Its hot methods are plain CPython method descriptors, not nanobind functions: a message that is exactly `bytes` costs
// one C call, no Python frame and no allocation beyond the result.
#pragma once

#include <nanobind/nanobind.h>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "arguments.hpp"
#include "codec.hpp"
#include "receiver.hpp"
#include "sender.hpp"
#include "taken.hpp"
#include "unlocked.hpp"
#include "wanted.hpp"

namespace ringcast::bindings {

namespace nb = nanobind;

struct WaitOptions {
    std::int64_t timeout_ns = kForever;
    PyObject* cancel = nullptr;  // borrowed; has is_set()
    bool indefinite = false;     // no long-wait reports
};

// When a wait that goes on is to be told of next.
struct WaitReports {
    std::int64_t long_wait_ns;
    std::int64_t self_wait_ns;
    Interest interest{};
};
inline constexpr std::int64_t kSelfWaitNs = 1'000'000'000;

// Who waits for what nobody can wake it for, such as a threading.Event, looks so often.
inline constexpr std::int64_t kPollNs = kFirstSliceNs;

class End {
public:
    // `codec` is a ringcast.codec.Codec. `reporter` hears of what people should know, without a say in it:
    // `long_wait(end, seconds)` whenever a wait has gone on for another `report_interval_ns`, and
    // `self_wait(end, seconds)` once in a wait that is not over after `kSelfWaitNs`, `chunk_wait(end, seconds)` once in such
    // a wait for a chunk that another thread has open,
    // `eviction(end, rank, pid, cause, behind, seconds)`, and `loss(end, rank, pid, cause, first, count, absent)`.
    End(std::shared_ptr<Segment> segment, bool writer, std::optional<std::uint32_t> rank, const Strategy& strategy,
        const ReaderPolicy& policy, const nb::object& codec, nb::object reporter, std::int64_t report_interval_ns);

    ~End();
    End(const End&) = delete;
    End& operator=(const End&) = delete;

    Sender& writer(const char* method) {
        if (sender_ == nullptr) raise_role(method);
        return *sender_;
    }
    Receiver& reader(const char* method) {
        if (receiver_ == nullptr) raise_role(method);
        return *receiver_;
    }
    Endpoint& endpoint() const noexcept { return *endpoint_; }
    bool is_writer() const noexcept { return sender_ != nullptr; }
    // Raises ForkedError, QueueClosedError.
    void check_usable() const {
        if (endpoint_->in_forked_child() || endpoint_->stopped()) raise_unusable();
    }
    void check_not_forked() const {
        if (endpoint_->in_forked_child()) raise_unusable();
    }
    void check_nesting() const;                           // raises BusyError if this thread has the turn
    void check_cancel(const WaitOptions& options) const;  // raises WaitCancelledError
    // Raises WaitCancelledError if nobody can get this call's result (ringcast._futures). Can that still come true?
    bool check_wanted(Interest& interest) const;
    // "queue 'sched' (reader, rank 1, pid 77)": what every message about this end begins with.
    std::string context() const;
    // For whom a call of this end waits, if it has to.
    std::string awaited(platform::Detail detail) const;
    // Of a reader: whose messages these are, and who brings them.
    std::string writer_in_words(platform::Detail detail) const;
    // What is said after "shut down" once `note_exit` has been called: it was not the user who did that.
    static std::string why_closed();
    static void note_exit() noexcept { exiting_.store(true, std::memory_order_relaxed); }

    void report_eviction(PyObject* self, const Eviction& eviction, std::int64_t waited_ns) const;
    void report_reach(PyObject* self, std::uint32_t rank, const std::string& host, bool cut) const;
    void report_chunk_wait(std::int64_t waited_ns) const;
    // Of a reader that takes no more calls: nobody gets what interrupted calls have left over, which is counted and told.
    void lose_left_over() noexcept;
    void report_losses(PyObject* self, const std::vector<Loss>& losses) const;
    // For whoever waits for this end and others at once, now and then: tells the reporter what a call that had waited for
    // so long would tell it. The next is due after so many seconds, as is returned; at first 0 is.
    double report_wait(PyObject* self, double seconds, double due);

    // Waits, in slices, without the interpreter's lock. `briefly()` and `slice(until)` say whether it is worth trying
    // again, and so does `check(waited_ns)`, or it throws why it never will be. False: the time is over. With a time-out of
    // 0 there is no wait, but `check(0)`.
    template <class Briefly, class Slice, class Check>
    bool wait(const WaitOptions& options, std::int64_t& deadline_ns, PyObject* self, Briefly&& briefly, Slice&& slice,
              Check&& check);
    // Sets QueueTimeoutError and returns null: it is an everyday result of a call, and throwing it costs more than all the
    // rest of one that does not wait.
    PyObject* timed_out(const WaitOptions& options);
    [[noreturn]] void raise_timeout(const WaitOptions& options, const std::string& waited_for) const;

    const Codec codec;
    LeftOvers left_over;
    Sender::Room relay_room;    // of a relay: where the message lies that is arriving
    std::uint64_t skipped = 0;  // messages that were kept for the reader's rank, which it did not ask for

private:
    // Is what may end the wait to be looked for, since nobody wakes it up?
    bool after_slice(const WaitOptions& options, PyObject* self, WaitReports& due);
    void report_changed_reach(PyObject* self);
    nb::object evicted_before_it_came(const Claim& claim, bool is_relay) const;
    [[noreturn]] void raise_role(const char* method) const;
    [[noreturn]] void raise_unusable() const;
    nb::object timeout_text(const WaitOptions& options, const std::string& waited_for) const;

    static std::atomic<bool> exiting_;

    std::unique_ptr<Sender> sender_;
    std::unique_ptr<Receiver> receiver_;
    Endpoint* endpoint_ = nullptr;
    nb::object reporter_;
    std::int64_t report_interval_ns_;
    std::atomic<bool> out_of_reach_{false};  // of a relay's reader: its user has been told so
    std::string label_;
    std::string segment_name_;
    std::string owner_;
    nb::object nothing_there_;  // what a reader's time-out of 0 says, once it has been said
};

// Takes the turn that another thread has, waiting without the interpreter's lock until `deadline_ns`. `check` runs
// between slices, may throw, and says whether what it looks at is to be looked at often. False: the time is over.
template <class Check>
bool take_turn(Endpoint& endpoint, std::uint64_t thread, std::int64_t deadline_ns, Check&& check) {
    constexpr std::int64_t kStarvingNs = 5'000'000;  // waited for so long, a thread goes before newcomers
    Turn& turn = endpoint.turn();
    struct Enlisted {
        Endpoint& endpoint;
        std::uint64_t thread;
        ~Enlisted() { endpoint.stop_waiting_for_turn(thread); }
    };
    turn.enlist();
    const Enlisted enlisted{endpoint, thread};
    const std::int64_t starving_from = platform::monotonic_ns() + kStarvingNs;
    std::int64_t slice_ns = kStarvingNs;
    while (true) {
        const std::uint32_t seen = turn.released();
        if (turn.try_take_enlisted(thread)) return true;
        endpoint.drop_orphaned_chunk();
        const std::int64_t now = platform::monotonic_ns();
        if (now >= deadline_ns) return false;
        if (now >= starving_from) turn.starve(thread);
        {
            const Unlocked unlocked;
            turn.await(seen, std::min(deadline_ns - now, slice_ns));
        }
        const bool polls = check();
        slice_ns = polls || slice_ns == kStarvingNs ? kPollNs : kSliceNs;
    }
}

// Holds the end's turn for one call. Waits for it within the options' time-out; raises BusyError on nested use.
class Call {
public:
    Call(End& end, const WaitOptions& options) : end_(end), held_(true) {
        end.check_usable();
        if (!end.endpoint().try_take_turn(platform::thread_id())) wait_for_turn(options);
    }
    ~Call() {
        if (held_) end_.endpoint().give_turn_back();
    }
    Call(Call&& other) noexcept : end_(other.end_), held_(std::exchange(other.held_, false)) {}
    // For calls that never wait: null if another thread has the turn. Raises BusyError on nested use.
    static std::optional<Call> without_waiting(End& end);
    // The turn outlives this call: it is an open chunk's now. Returns the ticket.
    std::uint64_t entrust() noexcept {
        held_ = false;
        return end_.endpoint().entrust_turn();
    }
    std::int64_t deadline_ns = 0;  // 0: not computed yet

private:
    explicit Call(End& end) : end_(end), held_(true) {}
    void wait_for_turn(const WaitOptions& options);

    End& end_;
    bool held_;
};

template <class Briefly, class Slice, class Check>
bool End::wait(const WaitOptions& options, std::int64_t& deadline_ns, PyObject* self, Briefly&& briefly, Slice&& slice,
               Check&& check) {
    if (options.timeout_ns == 0) return check(0);
    Endpoint& e = *endpoint_;
    e.begin_wait();
    const std::int64_t started = e.waiter().started_ns();
    if (deadline_ns == 0)
        deadline_ns = options.timeout_ns >= kForever - started ? kForever : started + options.timeout_ns;
    bool ready = briefly();
    WaitReports due{started + report_interval_ns_, started + kSelfWaitNs};
    struct Waiting {
        Endpoint& e;
        bool& ready;
        ~Waiting() {
            e.note_waiting(0);
            e.waiter().finish(ready);
        }
    } waiting{e, ready};
    if (!ready) e.note_waiting(started);
    bool polls = options.cancel != nullptr && options.cancel != Py_None;
    while (!ready) {
        const std::int64_t report_ns = std::min({deadline_ns, due.long_wait_ns, due.self_wait_ns});
        {
            const Unlocked unlocked;
            ready = slice(polls ? std::min(report_ns, platform::monotonic_ns() + kPollNs) : report_ns);
        }
        if (e.take_rouse()) ready = false;
        if (ready) break;
        polls = after_slice(options, self, due) || polls;
        ready = check(platform::monotonic_ns() - started);
        if (!ready && platform::monotonic_ns() >= deadline_ns) return false;
    }
    check_usable();  // shut down meanwhile?
    return true;
}

}  // namespace ringcast::bindings
