// The Python type Selection: many readers' ends, waited for at once.
//
// What is given for an end is an object that the caller keeps for as long as the end is in the selection.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <atomic>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>

#include "counts.hpp"
#include "end.hpp"
#include "methods.hpp"
#include "modules.hpp"
#include "py_errors.hpp"
#include "selection.hpp"
#include "unlocked.hpp"
#include "wanted.hpp"

namespace ringcast::bindings {

namespace {

class PySelection {
public:
    explicit PySelection(std::tuple<std::int64_t, std::int64_t, std::int64_t, bool> strategy)
        : selection_(std::make_unique<Selection>(
              Strategy{std::get<0>(strategy), std::get<1>(strategy), std::get<2>(strategy), std::get<3>(strategy)})) {}
    ~PySelection() {
        if (!selection_ || selection_->in_forked_child()) return;
        const Unlocked unlocked;  // its threads are waited for
        selection_.reset();
    }
    PySelection(const PySelection&) = delete;
    PySelection& operator=(const PySelection&) = delete;

    bool add(End& end, nb::handle given) {
        Receiver& receiver = end.reader("a selector");
        end.check_usable();
        return change(usable(), [&s = usable(), key = given.ptr(), hold = receiver.hold(),
                                 left_over = end.left_over.shared_count()](const Selection::Access& access) {
            return s.add(access, key, hold, left_over);
        });
    }
    // Also once it is closed, which lets go of all ends.
    void remove(nb::handle given) {
        if (selection_->in_forked_child()) return;
        change(*selection_,
               [&s = *selection_, key = given.ptr()](const Selection::Access& access) { s.remove(access, key); });
    }
    // What can be read, once something can; nothing when the time is over. `briefly`: the first moments of a wait keep the
    // interpreter's lock.
    nb::list select(nb::handle timeout, bool briefly) {
        const std::int64_t timeout_ns = parse_timeout(timeout.ptr());
        Selection& s = usable();
        if (selecting_.exchange(true, std::memory_order_relaxed))
            raise("BusyError", "selector: another thread is selecting; give each thread a selector of its own");
        struct Selecting {
            std::atomic<bool>& flag;
            ~Selecting() { flag.store(false, std::memory_order_relaxed); }
        } selecting{selecting_};
        s.begin();
        nb::list given = collected(s);
        if (timeout_ns == 0 || given.size() != 0) return given;
        const std::int64_t started = s.started_ns();
        const std::int64_t deadline = timeout_ns >= kForever - started ? kForever : started + timeout_ns;
        bool ready = briefly && s.briefly();
        Interest interest;
        while (true) {
            if (ready) given = collected(s);
            if (given.size() != 0 || platform::monotonic_ns() >= deadline) break;
            {
                const Unlocked unlocked;
                ready = s.slice(deadline);
                // For who has come meanwhile this wait begins now, and he need not wait for the interpreter's lock.
                const std::int64_t most = std::min(deadline, platform::monotonic_ns() + kFirstSliceNs);
                while (!ready && s.was_roused() && !closed_ && !nudged_ && platform::monotonic_ns() < most) {
                    s.finish(false);
                    s.begin();
                    ready = s.slice(deadline);
                }
            }
            if (PyErr_CheckSignals() != 0) throw nb::python_error();
            usable();
            if (!ready && interest.look() == Wanted::no_more)
                raise(
                    "WaitCancelledError",
                    "selector: the wait was given up, because the asyncio future that it was for has been cancelled or "
                    "its loop ends; `await aselect()` waits without a thread of a pool");
            if (!ready && nudged_.exchange(false)) break;
        }
        s.finish(given.size() != 0);
        return given;
    }
    int descriptor() {
        Selection& s = usable();
        return change(s, [&s](const Selection::Access& access) { return s.descriptor(access); });
    }
    // `of`: the ends that it had, in words.
    void close(const std::string& of) {
        if (selection_->in_forked_child() || closed_) return;
        of_ = of;
        closed_ = true;
        selection_->rouse();
    }
    // Who selects, or does so next, returns with nothing, and so looks at his deadlines anew.
    void nudge() {
        if (selection_->in_forked_child()) return;
        nudged_ = true;
        selection_->rouse();
    }
    bool closed() const { return closed_; }
    nb::dict counters() const { return as_dict(selection_->counts()); }

private:
    Selection& usable() const {
        if (selection_->in_forked_child())
            raise("ForkedError", "selector: it belongs to a parent process; make another one in the forked child");
        if (closed_) raise("QueueClosedError", "selector" + of_ + ": it has been closed");
        return *selection_;
    }
    // With the mutex held, and maybe without the interpreter's lock: who holds the mutex may be a thread that has no CPU
    // now, so it is not waited for with that lock. Nor is that lock waited for with the mutex: who selects takes the mutex
    // while he has it.
    template <class Change>
    static std::invoke_result_t<const Change&, const Selection::Access&> change(Selection& s, const Change& changes) {
        if (const auto access = s.access(false); access.owns_lock()) return changes(access);
        const Unlocked unlocked;  // goes after the mutex
        return changes(s.access());
    }
    static nb::list collected(Selection& s) {
        nb::list result;
        for (void* given : s.collect()) result.append(nb::handle(static_cast<PyObject*>(given)));
        return result;
    }

    std::unique_ptr<Selection> selection_;
    std::atomic<bool> selecting_{false};
    std::atomic<bool> closed_{false};
    std::atomic<bool> nudged_{false};
    std::string of_;  // before `closed_` is set
};

}  // namespace

void bind_selection(nb::module_& module) {
    nb::class_<PySelection>(module, "Selection", "Many readers' ends, waited for at once.", nb::is_weak_referenceable())
        .def(nb::init<std::tuple<std::int64_t, std::int64_t, std::int64_t, bool>>(), nb::arg("strategy"))
        .def("_add", &PySelection::add, nb::arg("end"), nb::arg("given"))
        .def("_remove", &PySelection::remove, nb::arg("given"))
        .def("_select", &PySelection::select, nb::arg("timeout").none(), nb::arg("briefly") = true)
        .def("_nudge", &PySelection::nudge)
        .def("_descriptor", &PySelection::descriptor)
        .def("_close", &PySelection::close, nb::arg("of") = "")
        .def("_counters", &PySelection::counters)
        .def_prop_ro("closed", &PySelection::closed);
    module.def("can_wait_for_any", &platform::can_wait_for_any);
}

}  // namespace ringcast::bindings
