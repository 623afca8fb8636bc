// Feeds the curve of hit rates with what a living pool is asked for, in a thread of its own that gives way to every other:
// the server, whose callers wait, only notes which chunks those were.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "pool/hit_rate_curve.hpp"
#include "pool/pool_layout.hpp"

namespace ringcast::pool {

class HitRateMeter {
public:
    // Its figures go into `words`. Throws std::system_error if no thread can be had.
    explicit HitRateMeter(ServerWords<platform::Native>& words);
    ~HitRateMeter();
    HitRateMeter(const HitRateMeter&) = delete;
    HitRateMeter& operator=(const HitRateMeter&) = delete;

    // Once: there is room for so many chunks. Nothing is noted before.
    void begin(std::uint32_t chunks);
    bool begun() const noexcept { return curve_.has_value(); }
    bool samples(const Digest& digest) const noexcept { return curve_->samples(digest); }
    // A chain was asked for, from its first chunk on, or from behind `after`, which is the last sampled one before it. More
    // than can be kept up with is counted and dropped.
    void note(std::span<const Digest> chain, const std::optional<Digest>& after);
    // Something was noted lately, and may be looked at. Called a few times a second.
    void rouse();

private:
    struct Access {
        std::uint32_t begin;  // in `digests`
        std::uint32_t count;
        std::optional<Digest> after;
    };
    struct Noted {
        std::vector<Digest> digests;
        std::vector<Access> accesses;
    };
    void run();

    ServerWords<platform::Native>& words_;
    std::optional<HitRateCurve> curve_;
    std::mutex mutex_;
    std::condition_variable roused_;
    Noted noted_;
    std::atomic<bool> ending_{false};  // relaxed: set under `mutex_`, and a hint between two accesses
    std::thread thread_;
};

}  // namespace ringcast::pool
