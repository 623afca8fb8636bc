#include "explorer.hpp"

#include <algorithm>
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
    names_.clear();
}

// ---- Searching

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
    died_with_.fill(kNoThread);
    depth_ = steps_ = 0;
    cost_ = 0;
    limit_ = kAwake;
    end_ = End::none;
    at_mutant_ = false;
    trace_.clear();
    trace_steps_ = 0;
    if (program_->at_start) program_->at_start();
    running_ = starting_ = true;
    for (std::uint8_t i = 0; i < n_threads_; ++i) {
        Running& thread = threads_[i];
        thread.next = {};
        thread.finished = thread.dead = thread.sleeping = thread.timed_out = thread.excused = false;
        thread.at_mutant = false;
        thread.timeouts = 0;
        thread.asleep = kAwake;
        thread.fiber.reset(&Explorer::enter_thread);
        current_ = i;
        thread.fiber.switch_from(main_);
    }
    starting_ = false;
    current_ = kNoThread;
    try {
        if (const auto first = choose_thread()) {
            current_ = *first;
            threads_[*first].fiber.switch_from(main_);
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
    me.threads_[me.current_].finished = true;
    if (me.starting_) me.main_.switch_from(me.threads_[me.current_].fiber);
    me.hand_over();
    std::abort();
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

void Explorer::take_step(Step step) {
    Running& me = threads_[current_];
    me.next = step;
    me.at_mutant = std::exchange(at_mutant_, false);
    if (starting_)
        main_.switch_from(me.fiber);
    else
        hand_over();
    memory_.tick(current_);
    if (++steps_ > kMaxSteps) fail("does not end: more than " + std::to_string(kMaxSteps) + " steps");
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

bool Explorer::enabled(std::uint8_t thread) const {
    const Running& t = threads_[thread];
    return !t.finished && !t.dead && !t.sleeping &&
           !(t.next.kind == Step::Kind::lock && !t.next.drops && locks_[t.next.object] != kNoThread);
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
            if (enabled(i)) choice.thread[choice.count++] = i;
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
            choice.count = awake;
        } else if (search_.kind == Search::Kind::random) {
            const bool goes_on = preempts && random_() % 4 != 0;
            std::swap(choice.thread[0], choice.thread[goes_on ? 0 : random_() % choice.count]);
            choice.count = 1;
        } else if (preempts && cost_ + 1 > search_.bound) {
            choice.count = 1;
        }
        path_.push_back(choice);
    }
    const Choice& taken = path_[depth_++];
    const std::uint8_t thread = taken.thread[taken.taken];
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
    else if (step.kind == Kind::fence || step.kind == Kind::lock)
        dependent = taken.kind == step.kind && taken.object == step.object;
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

// ---- What threads do

std::uint64_t Explorer::load(std::uint32_t id, std::memory_order order, Site site) {
    take_step({Step::Kind::load, id});
    const std::uint8_t position = choose_store(id, memory_.thread(current_).now.seen[id], false, nullptr);
    memory_.read(current_, id, position, order);
    if (tracing_) note(site, name_of(id) + note_read(id, position));
    return memory_.location(id).stores[position].value[0];
}

void Explorer::store(std::uint32_t id, std::uint64_t value, std::memory_order order, Site site) {
    take_step({Step::Kind::write, id});
    const std::uint8_t after = choose_store(id, memory_.thread(current_).now.seen[id], true, nullptr);
    memory_.write(current_, id, after, Value{value, 0, 0}, order, false, site);
    if (tracing_) note(site, name_of(id) + note_write(id, after + 1u));
}

std::uint64_t Explorer::exchange(std::uint32_t id, std::uint64_t value, std::memory_order order, Site site) {
    take_step({Step::Kind::write, id});
    const std::uint8_t position = choose_store(id, memory_.thread(current_).now.seen[id], true, nullptr);
    const std::uint64_t before = memory_.location(id).stores[position].value[0];
    memory_.read(current_, id, position, order);
    memory_.write(current_, id, position, Value{value, 0, 0}, order, true, site);
    if (tracing_) note(site, name_of(id) + ": " + std::to_string(before) + " exchanged for " + std::to_string(value));
    return before;
}

bool Explorer::compare_exchange(std::uint32_t id, std::uint64_t& expected, std::uint64_t desired,
                                std::memory_order success, std::memory_order failure, Site site) {
    take_step({Step::Kind::write, id});
    const std::uint8_t position = choose_store(id, memory_.thread(current_).now.seen[id], true, &expected);
    const std::uint64_t found = memory_.location(id).stores[position].value[0];
    const bool swaps = found == expected;
    memory_.read(current_, id, position, swaps ? success : failure);
    if (swaps) memory_.write(current_, id, position, Value{desired, 0, 0}, success, true, site);
    if (tracing_)
        note(site, swaps ? name_of(id) + ": " + text_of(id, Value{found, 0, 0}) + " swapped for " +
                               text_of(id, Value{desired, 0, 0})
                         : name_of(id) + note_read(id, position) + ", not swapped");
    expected = found;
    return swaps;
}

void Explorer::fence(std::memory_order order, Site site) {
    // Other fences change only what this thread's own steps mean.
    if (order == std::memory_order_seq_cst)
        take_step({Step::Kind::fence, 0});
    else
        threads_[current_].at_mutant = std::exchange(at_mutant_, false);
    memory_.fence(current_, order);
    if (tracing_)
        note(site, order == std::memory_order_relaxed   ? "no fence"
                   : order == std::memory_order_seq_cst ? "fence, seq_cst"
                   : order == std::memory_order_acq_rel ? "fence, acq_rel"
                                                        : "fence, acquire or release");
}

std::uint32_t Explorer::bytes_at(const void* address) {
    for (std::size_t i = 0; i < addresses_.size(); ++i)
        if (addresses_[i] == address) return static_cast<std::uint32_t>(i);
    return add_location(0, address);
}

void Explorer::report_race(std::uint32_t id, std::uint8_t other, const char* did) {
    fail("race: " + thread_name(current_) + " " + did + " " + name_of(id) + " while " + thread_name(other) +
         " may still be at it");
}

void Explorer::write_bytes(const void* address, const Value& value, Site site) {
    const std::uint32_t id = bytes_at(address);
    take_step({Step::Kind::write, id});
    Location& bytes = memory_.location(id);
    const std::uint8_t after = choose_store(id, bytes.stores.size() - 1, true, nullptr);
    memory_.write(current_, id, after, value, std::memory_order_relaxed, false, site);
    if (tracing_) note(site, name_of(id) + note_write(id, after + 1u));
    const auto& clock = memory_.thread(current_).now.clock;
    for (std::uint8_t i = 0; i < n_threads_; ++i)
        if (i != current_ && bytes.read_at[i] > clock[i] && !threads_[i].excused && !threads_[i].dead)
            report_race(id, i, "overwrites");
    for (const Store& store : bytes.stores)
        if (store.thread != kNoThread && store.clock > clock[store.thread] && !threads_[store.thread].dead)
            report_race(id, store.thread, "overwrites");
}

Value Explorer::read_bytes(const void* address, Site site) {
    const std::uint32_t id = bytes_at(address);
    take_step({Step::Kind::load, id});
    Location& bytes = memory_.location(id);
    const auto& clock = memory_.thread(current_).now.clock;
    bytes.read_at[current_] = clock[current_];
    const auto races = [&](const Store& store) {
        return store.thread != kNoThread && store.clock > clock[store.thread];
    };
    const std::uint8_t position = choose_store(id, memory_.thread(current_).now.seen[id], false, nullptr);
    const bool torn = races(bytes.stores[position]);
    if (tracing_) note(site, name_of(id) + (torn ? " copied while it is overwritten" : note_read(id, position)));
    for (const Store& store : bytes.stores)
        if (races(store) && !threads_[current_].excused) report_race(id, store.thread, "copies");
    memory_.read(current_, id, position, std::memory_order_relaxed);
    return torn ? Value{kPoison, kPoison, kPoison} : bytes.stores[position].value;
}

WaitResult Explorer::futex_wait(std::uint32_t id, std::uint64_t expected, Site site) {
    take_step({Step::Kind::wait, id});
    const std::size_t from = std::max(memory_.thread(current_).now.seen[id], memory_.known_to_kernel(id).seen[id]);
    const std::uint8_t position = choose_store(id, from, false, nullptr);
    memory_.read(current_, id, position, std::memory_order_relaxed);
    Running& me = threads_[current_];
    if (memory_.location(id).stores[position].value[0] != expected) {
        if (tracing_) note(site, name_of(id) + note_read(id, position) + ": does not sleep");
        return WaitResult::woken;
    }
    if (tracing_) note(site, "sleeps on " + name_of(id));
    me.sleeping = true;
    me.timed_out = false;
    me.word = id;
    take_step({});
    if (tracing_) note(site, me.timed_out ? "time-out: nothing else can happen" : "woken");
    return me.timed_out ? WaitResult::timed_out : WaitResult::woken;
}

void Explorer::futex_wake(std::uint32_t id, Site site) {
    take_step({Step::Kind::wake, id});
    memory_.pass_to_kernel(current_, id);
    std::string who;
    for (std::uint8_t i = 0; i < n_threads_; ++i) {
        Running& t = threads_[i];
        if (!t.sleeping || t.word != id || t.dead) continue;
        t.sleeping = false;
        if (tracing_) who += " " + thread_name(i);
    }
    if (tracing_) note(site, who.empty() ? "wakes nobody" : "wakes" + who);
}

void Explorer::lock(std::uint32_t which, Site site) {
    take_step({Step::Kind::lock, which});
    locks_[which] = current_;
    if (died_with_[which] != kNoThread) memory_.order_after(current_, died_with_[which]);
    if (tracing_) note(site, "gets lock " + std::to_string(which));
}

void Explorer::unlock(std::uint32_t which, Site site) {
    take_step({.kind = Step::Kind::lock, .object = which, .drops = true});
    if (locks_[which] == current_) locks_[which] = kNoThread;
    if (tracing_) note(site, "drops lock " + std::to_string(which));
}

bool Explorer::is_locked(std::uint32_t which, Site site) {
    take_step({.kind = Step::Kind::lock, .object = which, .drops = true});
    if (tracing_) note(site, "lock " + std::to_string(which) + (locks_[which] == kNoThread ? " is free" : " is held"));
    return locks_[which] != kNoThread;
}

void Explorer::kill(std::uint8_t thread, Site site) {
    take_step({Step::Kind::kill, thread});
    if (tracing_) note(site, thread_name(thread) + " is killed");
    Running& t = threads_[thread];
    if (t.finished) return;
    t.dead = true;
    for (std::size_t i = 0; i < locks_.size(); ++i) {
        if (locks_[i] != thread) continue;
        locks_[i] = kNoThread;
        died_with_[i] = thread;
    }
}

}  // namespace model
