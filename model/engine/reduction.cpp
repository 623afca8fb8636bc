// Which steps are tried in more than one order, and which threads sleep meanwhile: see Search in explorer.hpp.
#include <algorithm>

#include "explorer.hpp"

namespace model {

// The thread's next step comes after `earlier`, of another thread. Is there an execution in which it comes first and
// that is not found by choosing stores?
bool Explorer::must_swap(const Event& earlier, std::uint8_t thread, const Step& step) {
    using Kind = Step::Kind;
    const Step& first = earlier.step;
    if (first.kind == Kind::kill) return first.object == thread || step.kind == Kind::lock || step.kind == Kind::kill;
    if (step.kind == Kind::kill) return step.object == earlier.thread || first.kind == Kind::lock;
    if (first.kind == Kind::fence) return step.kind == Kind::fence;
    if (first.kind == Kind::lock) return step.kind == Kind::lock && (first.object & step.object) != 0;
    if (first.object != step.object || first.kind == Kind::local) return false;
    if (first.kind == Kind::wake || step.kind == Kind::wake) return first.kind == Kind::wait || step.kind == Kind::wait;
    return first.looks() && step.kind == Kind::write;
}

// The thread's next step, chosen there, is about to be taken: notes where it must come earlier in another execution.
void Explorer::find_swaps(std::uint8_t thread, std::size_t choice) {
    Running& me = threads_[thread];
    const Step& step = me.next;
    if (choice >= known_depth_)
        for (const Event& earlier : events_)
            if (earlier.thread != thread && earlier.number > me.past[earlier.thread] &&
                must_swap(earlier, thread, step))
                add_swap(earlier, thread);
    if (step.kind == Step::Kind::fence) come_after(thread, fenced_);
    me.past[thread] = ++me.events;
    if (step.kind == Step::Kind::fence) fenced_ = me.past;
    events_.push_back(Event{thread, me.events, step, choice, me.past});
}

void Explorer::add_swap(const Event& earlier, std::uint8_t thread) {
    Choice& choice = path_[earlier.choice];
    const auto tried = [&](std::uint8_t t) {
        return std::find(choice.thread.begin(), choice.thread.begin() + choice.count, t) !=
               choice.thread.begin() + choice.count;
    };
    const auto try_too = [&](std::uint8_t t) {
        if (!tried(t)) choice.thread[choice.count++] = t;
    };
    if ((choice.enabled & 1u << thread) != 0) {
        if ((choice.possible & 1u << thread) != 0) try_too(thread);
        return;
    }
    // It could not go on there: anybody who has a part in its going on will do.
    std::uint32_t helpers = 0;
    for (const Event& event : events_)
        if (event.choice > earlier.choice && event.number <= threads_[thread].past[event.thread])
            helpers |= choice.enabled & 1u << event.thread;
    for (std::uint8_t t = 0; t < n_threads_; ++t)
        if ((helpers & 1u << t) != 0 && ((choice.possible & 1u << t) == 0 || tried(t))) return;
    if (helpers == 0)
        helpers = choice.possible;
    else
        helpers &= -helpers;
    for (std::uint8_t t = 0; t < n_threads_; ++t)
        if ((helpers & choice.possible & 1u << t) != 0) try_too(t);
}

void Explorer::come_after(std::uint8_t thread, const Past& past) {
    Past& mine = threads_[thread].past;
    for (std::size_t i = 0; i < mine.size(); ++i) mine[i] = std::max(mine[i], past[i]);
}

// Does a thread that was put to sleep before `step` stay asleep when `other` does `taken`?
std::uint8_t Explorer::still_asleep(std::uint8_t asleep, std::uint8_t thread, const Step& step, std::uint8_t other,
                                    const Step& taken) {
    using Kind = Step::Kind;
    if (asleep == kAwake) return kAwake;
    bool dependent = false;
    if (taken.kind == Kind::kill)
        dependent = taken.object == thread || step.kind == Kind::lock || step.kind == Kind::kill;
    else if (step.kind == Kind::kill)
        dependent = step.object == other || taken.kind == Kind::lock;
    else if (step.kind == Kind::lock)
        dependent = taken.kind == Kind::lock && (taken.object & step.object) != 0;
    else if (step.kind == Kind::fence)
        dependent = taken.kind == Kind::fence;
    else if (step.kind == Kind::wait || step.kind == Kind::wake)
        dependent = (taken.kind == Kind::wait || taken.kind == Kind::wake) && taken.object == step.object;
    // Stores: see `asleep`. What this thread would choose of them has been explored, unless it is new.
    return dependent ? kAwake : asleep;
}

bool Explorer::has_choice(std::uint8_t thread) const {
    const Running& t = threads_[thread];
    if (t.asleep == kAwake) return true;
    if (t.asleep == kAsleep) return false;
    const auto& stores = memory_.location(t.next.object).stores;
    for (std::size_t i = memory_.thread(thread).now.seen[t.next.object]; i < stores.size(); ++i)
        if (stores[i].serial + 1 >= t.asleep) return true;
    return false;
}

}  // namespace model
