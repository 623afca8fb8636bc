// Threads that do a share of one long job, beside the thread that has it.
//
// A job is so many units, which are taken in turn by whoever is free. The caller takes part, so that a job never waits for
// a thread: who finds the crew at another job, or gets no thread, does all of it by himself.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>

#include "platform/lock_file.hpp"

namespace ringcast::pool {

class Crew {
public:
    // This process's; a forked child has one of its own. It is never destroyed: its threads end with the process.
    static Crew& of_process();

    // Does the units from 0 to `units` - 1, in any order, with at most `threads` threads, and returns when all are done.
    void run(std::size_t units, unsigned threads, const std::function<void(std::size_t)>& unit);

private:
    struct Job {
        const std::function<void(std::size_t)>& unit;
        std::size_t units;
        std::atomic<std::size_t> next{0};
        unsigned wanted;  // helpers that may still join
        unsigned working = 0;

        void work() {
            // Relaxed: units are independent, and the mutex passes on what was done.
            for (std::size_t i = next.fetch_add(1, std::memory_order_relaxed); i < units;
                 i = next.fetch_add(1, std::memory_order_relaxed))
                unit(i);
        }
    };
    void help();

    std::uint32_t fork_generation_ = platform::fork_generation();
    std::mutex one_job_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::condition_variable ended_;
    Job* job_ = nullptr;
    unsigned helpers_ = 0;
};

}  // namespace ringcast::pool
