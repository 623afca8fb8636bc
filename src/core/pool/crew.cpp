#include "pool/crew.hpp"

#include <memory>
#include <system_error>

#include "threads.hpp"

namespace ringcast::pool {

Crew& Crew::of_process() {
    static std::atomic<Crew*> latest{nullptr};
    Crew* known = latest.load(std::memory_order_acquire);  // acquire [crew]
    while (known == nullptr || known->fork_generation_ != platform::fork_generation()) {
        auto made = std::make_unique<Crew>();
        // release [crew]. An ancestor's is left alone: its mutexes may be held by threads that this process does not have.
        if (latest.compare_exchange_strong(known, made.get(), std::memory_order_acq_rel, std::memory_order_acquire))
            return *made.release();
    }
    return *known;
}

void Crew::run(std::size_t units, unsigned threads, const std::function<void(std::size_t)>& unit) {
    Job job{.unit = unit, .units = units, .wanted = 0};
    const std::unique_lock alone(one_job_, std::try_to_lock);
    if (!alone.owns_lock() || threads < 2 || units < 2) {
        job.work();
        return;
    }
    {
        const std::lock_guard guard(mutex_);
        for (; helpers_ + 1 < threads; ++helpers_) try {
                start_without_signals([this] { help(); }).detach();
            } catch (const std::system_error&) {
                break;  // fewer will do
            }
        job.wanted = threads - 1;
        job_ = &job;
    }
    wake_.notify_all();
    job.work();
    std::unique_lock guard(mutex_);
    job_ = nullptr;
    ended_.wait(guard, [&] { return job.working == 0; });
}

void Crew::help() {
    std::unique_lock guard(mutex_);
    for (;;) {
        wake_.wait(guard, [&] { return job_ != nullptr && job_->wanted != 0; });
        Job& job = *job_;
        --job.wanted;
        ++job.working;
        guard.unlock();
        job.work();
        guard.lock();
        if (--job.working == 0) ended_.notify_one();
    }
}

}  // namespace ringcast::pool
