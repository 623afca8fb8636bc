// The work of one tier, between a pool's server, which never waits for it, and the threads that do it.
//
// The server gives jobs, few at a time, and keeps what they read or fill from being used for anything else until it has
// them back. A thread takes one, does it, and puts it among the finished ones, which all tiers of a server have in common;
// that rouses the server. A tier that hangs keeps its jobs, its threads, and nothing else.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pool/digest.hpp"
#include "pool/tier.hpp"

namespace ringcast::pool {

enum class TierTask : std::uint8_t { store, load, remove, find, clear, sync };

struct TierJob {
    TierTask task{};
    std::uint32_t tier = 0;
    std::uint32_t entry = 0;
    std::uint32_t generation = 0;
    Digest key{};
    TierNote note{};
    std::span<std::byte> bytes{};        // store: only to be read
    std::optional<std::uint32_t> crc{};  // that the bytes must have
    std::vector<Digest> keys{};          // find
    bool leading = false;                // find: what comes behind the first that is not there is not asked for
    std::uint64_t number = 0;            // find: whose question it is

    TierOutcome outcome = TierOutcome::failed;
    bool memory_is_damaged = false;  // store: the bytes were not those of the checksum, and were not stored
    std::vector<bool> found{};
    std::string error{};
    std::int64_t took_ns = 0;
};
using TierJobs = std::vector<std::unique_ptr<TierJob>>;

// What the tiers of a server have finished.
class FinishedTierJobs {
public:
    explicit FinishedTierJobs(std::function<void()> rouse) : rouse_(std::move(rouse)) {}
    void put(std::unique_ptr<TierJob> job);
    bool any() const noexcept { return any_.load(std::memory_order_relaxed); }
    TierJobs take();
    // From now on nobody is roused.
    void end();

private:
    std::mutex mutex_;
    TierJobs jobs_;
    std::function<void()> rouse_;
    std::atomic<bool> any_{false};  // relaxed: `rouse` orders it, and the mutex what was put
};

class TierWork {
public:
    explicit TierWork(std::shared_ptr<FinishedTierJobs> finished) : finished_(std::move(finished)) {}

    // The server's.
    void give(std::unique_ptr<TierJob> job);
    // What was not taken is forgotten; `take` answers nothing from then on. False: some threads have not come back in time.
    bool end(std::int64_t patience_ns);

    // A thread's. Null: it is over. What a store is to take is compared with its checksum first, and what a load has
    // filled afterwards; if that differs, `finish` says so to the caller, who drops the copy.
    std::unique_ptr<TierJob> take();
    void finish(std::unique_ptr<TierJob> job);
    // Is this what the job's checksum says? If the job has none, it has from now on.
    static bool agrees(TierJob& job) noexcept;

private:
    std::shared_ptr<FinishedTierJobs> finished_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::unique_ptr<TierJob>> jobs_;
    std::size_t taken_ = 0;
    bool ended_ = false;
};

// Does the jobs of a native tier, until its work has ended.
void run_tier(TierWork& work, Tier& tier) noexcept;

}  // namespace ringcast::pool
