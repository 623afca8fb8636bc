#include "pool/tier_work.hpp"

#include <chrono>
#include <exception>
#include <utility>

#include "platform/clock.hpp"
#include "pool/checksum.hpp"
#include "pool/parts.hpp"

namespace ringcast::pool {

namespace {

// Why none of this length will ever be stored there; empty: that is not the reason, or there is none.
std::string too_long(const TierJob& job, const Tier& tier) {
    const std::uint64_t most = tier.most_bytes(job.note.parts);
    if (job.outcome != TierOutcome::refused || job.bytes.size() <= most) return "";
    const std::string bytes = std::to_string(payload_bytes(job.bytes.size(), job.note.parts));
    return "a chunk has " + bytes + " bytes, and the file's slots are for chunks of at most " +
           std::to_string(payload_bytes(most, job.note.parts)) +
           "; remove the file, and make the tier with chunk_bytes of " + bytes;
}

}  // namespace

void FinishedTierJobs::put(std::unique_ptr<TierJob> job) {
    const std::lock_guard guard(mutex_);  // also while the server is roused, so that it is there
    jobs_.push_back(std::move(job));
    any_.store(true, std::memory_order_relaxed);
    if (rouse_) rouse_();
}

TierJobs FinishedTierJobs::take() {
    const std::lock_guard guard(mutex_);
    any_.store(false, std::memory_order_relaxed);
    return std::exchange(jobs_, {});
}

void FinishedTierJobs::end() {
    const std::lock_guard guard(mutex_);
    rouse_ = nullptr;
}

void TierWork::give(std::unique_ptr<TierJob> job) {
    const std::lock_guard guard(mutex_);
    jobs_.push_back(std::move(job));
    changed_.notify_all();
}

bool TierWork::end(std::int64_t patience_ns) {
    std::unique_lock lock(mutex_);
    ended_ = true;
    jobs_.clear();
    changed_.notify_all();
    return changed_.wait_for(lock, std::chrono::nanoseconds(patience_ns), [this] { return taken_ == 0; });
}

std::unique_ptr<TierJob> TierWork::take() {
    for (;;) {
        std::unique_ptr<TierJob> job;
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [this] { return ended_ || !jobs_.empty(); });
            if (ended_) return nullptr;
            job = std::move(jobs_.front());
            jobs_.pop_front();
            ++taken_;
        }
        job->took_ns = -platform::monotonic_ns();
        if (job->task != TierTask::store || agrees(*job)) return job;
        job->memory_is_damaged = true;
        job->outcome = TierOutcome::corrupt;
        finish(std::move(job));
    }
}

void TierWork::finish(std::unique_ptr<TierJob> job) {
    job->took_ns += platform::monotonic_ns();
    finished_->put(std::move(job));
    const std::lock_guard guard(mutex_);
    --taken_;
    changed_.notify_all();
}

bool TierWork::agrees(TierJob& job) noexcept {
    const std::uint32_t found = checksum_of(job.bytes);
    if (!job.crc) job.crc = found;
    return *job.crc == found;
}

void run_tier(TierWork& work, Tier& tier) noexcept {
    while (auto job = work.take()) {
        switch (job->task) {
            case TierTask::store:
                job->outcome = tier.store(job->key, job->bytes, job->note);
                if (const std::string why = too_long(*job, tier); !why.empty()) {
                    job->outcome = TierOutcome::failed;
                    job->error = why;
                }
                break;
            case TierTask::load:
                job->outcome = tier.load(job->key, job->bytes);
                if (job->outcome == TierOutcome::done && !TierWork::agrees(*job)) job->outcome = TierOutcome::corrupt;
                break;
            case TierTask::remove:
                job->outcome = tier.remove(job->key);
                break;
            case TierTask::find:  // never asked: the server's index says what a native one has
                break;
            case TierTask::sync:
                job->outcome = tier.sync();
                break;
            case TierTask::clear:
                try {
                    tier.clear(tier.era() + 1);
                    job->outcome = TierOutcome::done;
                } catch (const std::exception& error) {
                    job->outcome = TierOutcome::failed;
                    job->error = error.what();
                }
                break;
        }
        if (job->outcome == TierOutcome::failed && job->error.empty()) job->error = tier.last_error();
        if (job->outcome == TierOutcome::corrupt)
            job->error = "the bytes in the file are not those that were stored; that chunk is dropped";
        work.finish(std::move(job));
    }
}

}  // namespace ringcast::pool
