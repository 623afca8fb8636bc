// Explores what a scenario's threads can do: every interleaving, and every store that each load may read.
//
// An execution is run from its start each time, following a path of recorded choices and then extending it. Two kinds
// of choice: which thread takes the next step, and which store its step reads or comes after. Three ways to search:
//
//     exhaustive   depth first. Another order is tried only where two steps must be swapped for it: a store before an
//                  earlier load, since the load could not have read it; two seq_cst fences; a sleep and a wake-up; two
//                  uses of a lock (dynamic partial-order reduction). With sleep sets against doing it twice: a thread
//                  asleep before a load or store stays so for all stores that it could have chosen before
//     cheapest     every execution that costs at most so much, where a preemption and a choice of any but the newest
//                  store cost one each; with rising bounds it finds the simplest violation first
//     random       walks from recorded seeds, for what is too large
#pragma once

#include <functional>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "fiber.hpp"
#include "memory.hpp"

namespace model {

struct Thread {
    std::string name;
    std::function<void()> body;
};

struct Program {
    std::string name;
    std::vector<Thread> threads;
    std::function<void()> at_start;  // before the threads run
    std::function<void()> at_end;    // after an execution in which every thread ended; may call Explorer::fail
};

struct Search {
    enum class Kind { exhaustive, cheapest, random } kind = Kind::exhaustive;
    int bound = 0;                    // cheapest: the highest cost
    std::uint64_t seed = 0;           // random: of the first walk
    std::uint64_t walks = 0;          // random: how many
    std::uint64_t most = UINT64_MAX;  // gives up after so many executions
};

struct Result {
    std::uint64_t executions = 0;  // that came to their end
    std::uint64_t redundant = 0;   // given up, since what was left of them had been explored
    std::uint64_t steps = 0;
    std::uint64_t executed_mutant = 0;  // steps at the weakened place
    bool complete = true;               // everything within the search's bounds was explored
    std::string violation;              // empty: none
    std::string trace;                  // of the violation
    std::uint64_t seed = 0;             // random: of the walk that found it
    int trace_steps = 0;
};

enum class WaitResult { woken, timed_out };

class Explorer {
public:
    static Explorer& the();

    Result explore(const Program& program, const Search& search);

    // Locations live as long as the program that is explored. Outside an execution, values are the initial ones.
    std::uint32_t add_location(std::uint64_t initial, const void* address);
    void set_initial(std::uint32_t id, std::uint64_t value) { initial_[id][0] = value; }
    std::uint64_t initial(std::uint32_t id) const { return initial_[id][0]; }
    void forget_locations();
    void name(const void* address, std::string text) { names_.emplace_back(address, std::move(text)); }
    bool running() const { return running_; }
    // How a value of the location with that name is written in a trace.
    void describe_with(std::function<std::string(const std::string&, std::uint64_t)> describe) {
        describe_ = std::move(describe);
    }

    // What threads do.
    std::uint64_t load(std::uint32_t id, std::memory_order order, Site site);
    void store(std::uint32_t id, std::uint64_t value, std::memory_order order, Site site);
    std::uint64_t exchange(std::uint32_t id, std::uint64_t value, std::memory_order order, Site site);
    bool compare_exchange(std::uint32_t id, std::uint64_t& expected, std::uint64_t desired, std::memory_order success,
                          std::memory_order failure, Site site);
    void fence(std::memory_order order, Site site);
    // Plain bytes. If `forgiving`, an excused thread (see `excuse`) may race for them.
    void write_bytes(const void* address, const Value& value, bool forgiving, Site site);
    Value read_bytes(const void* address, bool forgiving, Site site);
    WaitResult futex_wait(std::uint32_t id, std::uint64_t expected, Site site);
    // On all of them at once. The kernel takes one after the other, and a wake-up by one that it has taken ends it.
    struct WaitedForAny {
        WaitResult result;
        std::optional<std::uint32_t> word;  // on which somebody woke it, as its number in `ids`
    };
    WaitedForAny futex_wait_any(const std::vector<std::uint32_t>& ids, std::uint64_t expected, Site site);
    void futex_wake(std::uint32_t id, Site site);
    // A lock of the kernel's, dropped by who dies. Who gets it, or finds it free, comes after all that its last holder
    // did.
    void lock(std::uint32_t which, Site site);
    void hold(std::uint32_t which, std::uint8_t thread) { locks_[which] = thread; }  // from the start
    void unlock(std::uint32_t which, Site site);
    bool is_locked(std::uint32_t which, Site site);
    // The thread stops for ever, wherever it is.
    void kill(std::uint8_t thread, Site site);

    bool any_killed() const;
    std::uint8_t self() const { return current_; }
    // From now on, forgiving bytes that this thread has copied or copies in a race are its own loss: it gets poison.
    void excuse(std::uint8_t thread);
    static constexpr std::uint64_t kPoison = 0xdead'dead'dead'dead;
    // The property `what` does not hold. Ends the execution.
    [[noreturn]] void fail(const std::string& what);
    void expect(bool holds, const char* what) {
        if (!holds) fail(what);
    }
    // The latest value, for checks that are no part of the program.
    std::uint64_t latest(std::uint32_t id) { return memory_.location(id).stores.back().value[0]; }

    // The mutant: one memory order, fence or edit, named by its number in the generated headers.
    void weaken(int id, std::memory_order to) { mutant_ = id, mutant_order_ = to; }
    bool is_weakened(int id) {
        if (id != mutant_) return false;
        ++result_.executed_mutant;
        at_mutant_ = true;
        return true;
    }
    std::memory_order mutant_order() const { return mutant_order_; }

private:
    static constexpr std::uint8_t kAwake = 0;
    static constexpr std::uint8_t kAsleep = 255;
    static constexpr std::size_t kMaxSteps = 600;
    static constexpr int kMaxTimeouts = 4;

    struct Step {
        enum class Kind : std::uint8_t { local, load, write, fence, wait, wake, lock, kill } kind = Kind::local;
        std::uint32_t object = 0;  // a location or a thread; of locks, one bit each
        bool drops = false;        // of a lock: needs it not to be free
        bool reads = false;        // of a write: it is a read-modify-write
        enum class Bytes : std::uint8_t { no, strict, forgiving } bytes = Bytes::no;
        bool looks() const { return kind == Kind::load || kind == Kind::wait || reads; }
        bool chooses_store() const { return kind == Kind::load || kind == Kind::write || kind == Kind::wait; }
    };
    // What has been done in this execution. `past` says how many of each thread's events come before it in every
    // execution that is equivalent to this one.
    using Past = std::array<std::uint8_t, kMaxThreads>;
    struct Event {
        std::uint8_t thread;
        std::uint8_t number;  // of this thread's events, from 1
        Step step;
        std::size_t choice;  // where in the path it was chosen
        Past past;
    };
    struct Running {
        Fiber fiber;
        Past past{};
        std::uint8_t events = 0;
        Step next;
        bool finished = false, dead = false, sleeping = false, timed_out = false, excused = false;
        bool at_mutant = false;
        // Where it sleeps, or is about to; and was it woken before it slept?
        std::array<std::uint32_t, 3> words{};
        std::uint8_t n_words = 0;
        bool woken = false;
        std::uint32_t woken_on = 0;
        int timeouts = 0;
        // asleep: kAsleep, or 1 + the number of stores that its next step could choose from when it was explored
        std::uint8_t asleep = kAwake;
    };
    struct Choice {
        bool of_thread = false;
        std::uint8_t taken = 0;
        std::uint8_t count = 0;
        std::array<std::uint8_t, kMaxThreads> thread{};    // to be tried, in this order: `count` of them
        std::uint32_t enabled = 0;                         // threads, one bit each
        std::uint32_t possible = 0;                        // those of them that are not asleep
        std::array<std::uint8_t, kMaxThreads> asleep{};    // threads, as of this choice
        std::array<std::uint8_t, kMaxThreads> explored{};  // for each thread: its `asleep` once it has been explored
        int cost = 0;                                      // of the path up to here
    };
    enum class End { none, complete, redundant, violation, restart };
    // Who has ever touched a location, in any execution of this program. What only one thread touches, or nobody
    // changes, is no reason to look at other orders: see `is_private`.
    struct Use {
        std::uint32_t readers = 0;  // one bit for each thread
        std::uint32_t writers = 0;
    };

    bool is_private(const Step& step);
    static void enter_thread();
    void run_once();
    bool next_path();
    void take_step(Step step);  // returns when it is this thread's turn
    void hand_over();
    std::optional<std::uint8_t> choose_thread();
    std::uint8_t choose_among(std::uint8_t count);
    std::uint8_t choose_store(std::uint32_t id, std::size_t from, bool writes, const std::uint64_t* compared);
    bool has_choice(std::uint8_t thread) const;
    bool enabled(std::uint8_t thread) const;
    bool wake_by_timeout();
    static std::uint8_t still_asleep(std::uint8_t asleep, std::uint8_t thread, const Step& step, std::uint8_t other,
                                     const Step& taken);
    static bool must_swap(const Event& earlier, std::uint8_t thread, const Step& step);
    void find_swaps(std::uint8_t thread, std::size_t choice);
    void add_swap(const Event& earlier, std::uint8_t thread);
    void come_after(std::uint8_t thread, const Past& past);
    void leave(End end);
    void exit_process();
    std::uint32_t held_locks(std::optional<std::uint8_t> by = std::nullopt) const;
    void drop_locks(std::uint8_t thread);
    std::uint32_t bytes_at(const void* address);
    [[noreturn]] void report_race(std::uint32_t id, std::uint8_t other, const char* did);

    // For the trace.
    std::string name_of(std::uint32_t id) const;
    std::string thread_name(std::uint8_t thread) const;
    void note(Site site, const std::string& text);
    std::string note_read(std::uint32_t id, std::uint8_t position) const;
    std::string note_write(std::uint32_t id, std::size_t position) const;
    std::string text_of(std::uint32_t id, const Value& value) const;

    Memory memory_;
    std::vector<Value> initial_;
    std::vector<const void*> addresses_;
    std::array<Use, kMaxLocations> uses_{};
    bool excuses_ = false;  // does the program excuse any thread?
    std::vector<std::pair<const void*, std::string>> names_;
    std::function<std::string(const std::string&, std::uint64_t)> describe_;

    const Program* program_ = nullptr;
    Search search_;
    Result result_;
    std::mt19937_64 random_;
    Fiber main_;
    std::array<Running, kMaxThreads> threads_;
    std::array<std::uint8_t, kMaxLocks> locks_{};
    std::uint8_t n_threads_ = 0;
    std::uint8_t current_ = kNoThread;
    bool running_ = false, starting_ = false, tracing_ = false;
    End end_ = End::none;
    std::vector<Choice> path_;
    std::size_t depth_ = 0;
    std::size_t known_depth_ = 0;  // the path up to here was looked at for swaps in an earlier execution
    std::vector<Event> events_;
    Past fenced_{};  // before the next seq_cst fence
    std::size_t steps_ = 0;
    int cost_ = 0;
    std::uint8_t limit_ = kAwake;  // the `asleep` of the thread whose step this is
    int mutant_ = -1;
    std::memory_order mutant_order_ = std::memory_order_relaxed;
    bool at_mutant_ = false;
    std::string trace_;
    int trace_steps_ = 0;
};

}  // namespace model
