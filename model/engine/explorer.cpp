// The search: see explorer.hpp.
#include "explorer.hpp"

#include <algorithm>
#include <bit>
#include <cstdio>

namespace model {

namespace {
struct Failed {};  // thrown where there is no thread to leave
}  // namespace

Explorer& Explorer::the() {
    static Explorer explorer;
    return explorer;
}

std::uint32_t Explorer::add_location(std::uint64_t initial, const void* address) {
    if (initial_.size() == kMaxLocations) {
        std::fputs("model: too many locations\n", stderr);
        std::abort();
    }
    initial_.push_back(Value{initial, initial, initial});
    addresses_.push_back(address);
    if (running_) memory_.add(initial_.back());
    return static_cast<std::uint32_t>(initial_.size() - 1);
}

void Explorer::forget_locations() {
    initial_.clear();
    addresses_.clear();
    uses_.fill({});
    excuses_ = false;
    names_.clear();
}

Result Explorer::explore(const Program& program, const Search& search) {
    program_ = &program;
    search_ = search;
    result_ = {};
    path_.clear();
    for (std::uint64_t walk = 0;; ++walk) {
        if (search.kind == Search::Kind::random) {
            if (walk == search.walks) break;
            result_.seed = search.seed + walk;
            random_.seed(result_.seed);
            path_.clear();
        }
        run_once();
        if (end_ == End::restart) {
            const std::uint64_t steps = result_.steps;
            const std::uint64_t seed = result_.seed;
            result_ = {};
            result_.steps = steps;
            result_.seed = seed;
            path_.clear();
            walk = UINT64_MAX;
            continue;
        }
        if (end_ == End::violation) {
            tracing_ = true;
            run_once();
            tracing_ = false;
            result_.trace = trace_;
            result_.trace_steps = trace_steps_;
            return result_;
        }
        ++(end_ == End::complete ? result_.executions : result_.redundant);
        if (search.kind != Search::Kind::random && !next_path()) break;
        if (result_.executions + result_.redundant >= search.most) {
            result_.complete = false;
            break;
        }
    }
    return result_;
}

bool Explorer::next_path() {
    while (!path_.empty()) {
        Choice& choice = path_.back();
        if (choice.of_thread) {
            const std::uint8_t explored = choice.thread[choice.taken];
            choice.asleep[explored] = choice.explored[explored];
        }
        if (++choice.taken < choice.count) return true;
        path_.pop_back();
    }
    return false;
}

void Explorer::run_once() {
    initial_.reserve(kMaxLocations);
    memory_.reset(initial_);
    n_threads_ = static_cast<std::uint8_t>(program_->threads.size());
    locks_.fill(kNoThread);
    known_depth_ = path_.empty() ? 0 : path_.size() - 1;
    depth_ = steps_ = 0;
    events_.clear();
    fenced_ = {};
    cost_ = 0;
    limit_ = kAwake;
    end_ = End::none;
    at_mutant_ = false;
    trace_.clear();
    trace_steps_ = 0;
    if (program_->at_start) program_->at_start();
    running_ = starting_ = true;
    for (std::uint8_t i = 0; i < n_threads_ && end_ == End::none; ++i) {
        Running& thread = threads_[i];
        thread.next = {};
        thread.finished = thread.dead = thread.sleeping = thread.timed_out = thread.excused = false;
        thread.n_words = 0;
        thread.at_mutant = false;
        thread.timeouts = 0;
        thread.past = {};
        thread.events = 0;
        thread.asleep = kAwake;
        thread.fiber.reset(&Explorer::enter_thread);
        current_ = i;
        thread.fiber.switch_from(main_);
    }
    starting_ = false;
    current_ = kNoThread;
    try {
        if (end_ != End::none) {
            // A thread has left in its first steps.
        } else if (const auto first = choose_thread()) {
            current_ = *first;
            threads_[*first].fiber.switch_from(main_);
        } else {
            end_ = End::complete;
        }
        current_ = kNoThread;
        if (end_ == End::complete && program_->at_end) program_->at_end();
    } catch (const Failed&) {
    }
    running_ = false;
    result_.steps += steps_;
}

void Explorer::enter_thread() {
    Explorer& me = the();
    me.program_->threads[me.current_].body();
    me.exit_process();
    me.threads_[me.current_].finished = true;
    if (me.starting_) me.main_.switch_from(me.threads_[me.current_].fiber);
    me.hand_over();
    std::abort();
}

// A process that ends drops its locks as one that is killed.
void Explorer::exit_process() {
    if (held_locks(current_) == 0) return;
    take_step({.kind = Step::Kind::lock, .object = held_locks(current_), .drops = true});
    drop_locks(current_);
    if (tracing_) note(Site{}, "ends");
}

void Explorer::drop_locks(std::uint8_t thread) {
    for (std::size_t i = 0; i < locks_.size(); ++i) {
        if (locks_[i] != thread) continue;
        locks_[i] = kNoThread;
        memory_.leave_in_lock(thread, i);
    }
}

void Explorer::leave(End end) {
    end_ = end;
    if (current_ == kNoThread) throw Failed{};
    main_.switch_from(threads_[current_].fiber);
}

void Explorer::fail(const std::string& what) {
    result_.violation = what;
    leave(End::violation);
    std::abort();
}

// Would this step, taken at any other time, change anything? Races on bytes are found in whichever order they come.
bool Explorer::is_private(const Step& step) {
    if (!step.chooses_store()) return false;
    Use& use = uses_[step.object];
    const Use before = use;
    const std::uint32_t me = 1u << current_;
    (step.kind == Step::Kind::load ? use.readers : use.writers) |= me;
    if (step.bytes != Step::Bytes::no) return step.bytes == Step::Bytes::strict || !excuses_;
    const auto shared = [](const Use& u) { return u.writers != 0 && std::popcount(u.readers | u.writers) > 1; };
    // Others have touched it in the belief that nobody else would.
    if (shared(use) && !shared(before)) leave(End::restart);
    return !shared(use);
}

void Explorer::excuse(std::uint8_t thread) {
    if (!std::exchange(excuses_, true)) leave(End::restart);
    threads_[thread].excused = true;
}

void Explorer::take_step(Step step) {
    Running& me = threads_[current_];
    me.at_mutant = std::exchange(at_mutant_, false);
    if (!is_private(step)) {
        me.next = step;
        if (starting_)
            main_.switch_from(me.fiber);
        else
            hand_over();
    } else {
        limit_ = kAwake;
    }
    memory_.tick(current_);
    if (++steps_ > kMaxSteps && !starting_) fail("does not end: more than " + std::to_string(kMaxSteps) + " steps");
}

void Explorer::hand_over() {
    const auto next = choose_thread();
    const std::uint8_t before = current_;
    if (!next) {
        leave(End::complete);
    } else if (*next != before) {
        current_ = *next;
        threads_[*next].fiber.switch_from(threads_[before].fiber);
    }
}

std::uint32_t Explorer::held_locks(std::optional<std::uint8_t> by) const {
    std::uint32_t held = 0;
    for (std::size_t i = 0; i < locks_.size(); ++i)
        if (by ? locks_[i] == *by : locks_[i] != kNoThread) held |= 1u << i;
    return held;
}

bool Explorer::enabled(std::uint8_t thread) const {
    const Running& t = threads_[thread];
    return !t.finished && !t.dead && !t.sleeping &&
           !(t.next.kind == Step::Kind::lock && !t.next.drops && (t.next.object & held_locks()) != 0);
}

// Nothing can happen any more but a time-out. False: nobody waits.
bool Explorer::wake_by_timeout() {
    Running* chosen = nullptr;
    bool all_ended = true;
    for (std::uint8_t i = 0; i < n_threads_; ++i) {
        Running& t = threads_[i];
        if (t.finished || t.dead) continue;
        all_ended = false;
        if (t.sleeping && (chosen == nullptr || t.timeouts < chosen->timeouts)) chosen = &t;
    }
    if (all_ended) return false;
    if (chosen == nullptr || chosen->timeouts == kMaxTimeouts) {
        std::string who;
        for (std::uint8_t i = 0; i < n_threads_; ++i)
            if (!threads_[i].finished && !threads_[i].dead) who += (who.empty() ? "" : ", ") + thread_name(i);
        fail("deadlock: nothing can wake " + who);
    }
    ++chosen->timeouts;
    chosen->sleeping = false;
    chosen->timed_out = true;
    for (std::uint8_t i = 0; i < n_threads_; ++i) chosen->past[i] = threads_[i].events;
    memory_.see_everything(static_cast<std::uint8_t>(chosen - threads_.data()));
    return true;
}

// Whose step comes next; nobody's if all threads have ended.
std::optional<std::uint8_t> Explorer::choose_thread() {
    Choice choice{.of_thread = true};
    do {
        for (std::uint8_t k = 0; k < n_threads_; ++k) {
            // The current one first: going on with it costs nothing.
            const std::uint8_t i = current_ >= n_threads_ ? k : k == 0 ? current_ : k <= current_ ? k - 1 : k;
            if (!enabled(i)) continue;
            choice.thread[choice.count++] = i;
            choice.enabled |= 1u << i;
        }
    } while (choice.count == 0 && wake_by_timeout());
    if (choice.count == 0) return std::nullopt;
    const bool preempts = current_ < n_threads_ && choice.thread[0] == current_;
    if (depth_ == path_.size()) {
        for (std::uint8_t i = 0; i < n_threads_; ++i) {
            choice.asleep[i] = threads_[i].asleep;
            const Step& next = threads_[i].next;
            choice.explored[i] = next.chooses_store()
                                     ? static_cast<std::uint8_t>(1 + memory_.location(next.object).stores.size())
                                     : kAsleep;
        }
        if (search_.kind == Search::Kind::exhaustive) {
            std::uint8_t awake = 0;
            for (std::uint8_t k = 0; k < choice.count; ++k)
                if (has_choice(choice.thread[k])) choice.thread[awake++] = choice.thread[k];
            if (awake == 0) {
                leave(End::redundant);
                return std::nullopt;
            }
            for (std::uint8_t k = 0; k < awake; ++k) choice.possible |= 1u << choice.thread[k];
            choice.count = 1;
            // Who is killed would have gone on: what it would have done is in nobody's past.
            if (threads_[choice.thread[0]].next.kind == Step::Kind::kill) choice.count = awake;
        } else if (search_.kind == Search::Kind::random) {
            const bool goes_on = preempts && random_() % 4 != 0;
            std::swap(choice.thread[0], choice.thread[goes_on ? 0 : random_() % choice.count]);
            choice.count = 1;
        } else if (preempts && cost_ + 1 > search_.bound) {
            choice.count = 1;
        }
        path_.push_back(choice);
    }
    const std::uint8_t thread = path_[depth_].thread[path_[depth_].taken];
    if (search_.kind == Search::Kind::exhaustive) find_swaps(thread, depth_);
    const Choice& taken = path_[depth_++];
    if (preempts && thread != current_) ++cost_;
    if (search_.kind == Search::Kind::exhaustive) {
        limit_ = taken.asleep[thread];
        for (std::uint8_t i = 0; i < n_threads_; ++i)
            threads_[i].asleep =
                i == thread ? kAwake
                            : still_asleep(taken.asleep[i], i, threads_[i].next, thread, threads_[thread].next);
    }
    return thread;
}

std::uint8_t Explorer::choose_among(std::uint8_t count) {
    if (count == 1) return 0;
    if (depth_ == path_.size()) {
        Choice choice{.count = count};
        if (search_.kind == Search::Kind::random) {
            if (random_() % 2 != 0) choice.taken = static_cast<std::uint8_t>(random_() % count);
            choice.count = choice.taken + 1;
        } else if (search_.kind == Search::Kind::cheapest && cost_ + 1 > search_.bound) {
            choice.count = 1;
        }
        path_.push_back(choice);
    }
    const std::uint8_t taken = path_[depth_++].taken;
    if (taken != 0) ++cost_;
    return taken;
}

// The position of a store that this thread's step reads, or after which it puts one (`writes`). With `compared`, it is
// read only if it differs, and updated if it does not.
std::uint8_t Explorer::choose_store(std::uint32_t id, std::size_t from, bool writes, const std::uint64_t* compared) {
    const auto& stores = memory_.location(id).stores;
    std::array<std::uint8_t, 64> positions{};
    std::uint8_t count = 0;
    for (std::size_t i = stores.size(); i-- > from;) {
        if (stores[i].serial + 1 < limit_) continue;
        const bool followed = i + 1 < stores.size() && stores[i + 1].updates;
        if (writes && followed && (compared == nullptr || stores[i].value[0] == *compared)) continue;
        if (count < positions.size()) positions[count++] = static_cast<std::uint8_t>(i);
    }
    if (count == 0) leave(End::redundant);
    return positions[choose_among(count)];
}

}  // namespace model
