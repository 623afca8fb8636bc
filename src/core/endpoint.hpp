// What a writer's and a reader's end have in common: the segment, the turn, the stop flag and the waiter.
//
// Calls on an end take its turn. `shut_down` takes none: it may come from any thread, or from a finalizer that runs
// inside a call. It ends the wait in progress at once; what needs the turn (to say that nothing more will be published,
// to leave the seat) is done by whoever gives the turn back.
//
// An open chunk has the turn by a ticket: its owner ends it in any thread. `shut_down` drops it, and so does whoever needs
// the turn when the thread that opened it has ended.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "platform/process.hpp"
#include "segment.hpp"
#include "turn.hpp"
#include "waiting.hpp"

namespace ringcast {

// When a call that does not wait asks the kernel who lives. It may be one of many, and that is a system call: so it does
// now and then, soon enough for who calls again and again to hear of a death in time.
class LifeLook {
public:
    bool is_due() noexcept {
        const std::int64_t now = platform::monotonic_ns();
        if (now < due_ns_) return false;
        due_ns_ = now + kEveryNs;
        return true;
    }
    // Somebody has died.
    void look_again() noexcept { due_ns_ = 0; }

private:
    static constexpr std::int64_t kEveryNs = 100'000'000;
    std::int64_t due_ns_ = 0;
};

class Endpoint {
public:
    using Native = platform::Native;

    using Counters = WaitCounters<Native>;

    Endpoint(std::shared_ptr<Segment> segment, const Strategy& strategy, Parked<Native>& parked,
             std::atomic<std::uint64_t>* cpus, Counters& counters, std::uint64_t incarnation)
        : segment_(std::move(segment)),
          waiter_(strategy, counters),
          parked_(parked),
          counters_(&counters),
          cpus_(cpus),
          quota_(platform::cpu_quota()) {
        counters.begin(incarnation);
    }
    // relaxed: while its holder has the lock, only the holder changes a seat's incarnation.
    Endpoint(std::shared_ptr<Segment> segment, const Strategy& strategy, NativeSeat& seat)
        : Endpoint(std::move(segment), strategy, seat.parked, seat.cpus, seat.waits,
                   seat_incarnation(seat.state.load(std::memory_order_relaxed))) {}
    virtual ~Endpoint() = default;  // derived destructors call shut_down
    Endpoint(const Endpoint&) = delete;
    Endpoint& operator=(const Endpoint&) = delete;

    const Segment& segment() const noexcept { return *segment_; }
    const std::shared_ptr<Segment>& shared_segment() const noexcept { return segment_; }
    Waiter<Native>& waiter() noexcept { return waiter_; }
    // How its waits have ended, also when it has been shut down or released.
    WaitCounts counts() const noexcept {
        const std::lock_guard guard(lifetime_);
        return counters_->load();
    }
    void count_long_wait() noexcept {
        const std::lock_guard guard(lifetime_);
        Counters::add(counters_->long_waits);
    }
    bool stopped() const noexcept { return stopped_.load(std::memory_order_relaxed); }
    bool in_forked_child() const noexcept { return fork_generation_ != platform::fork_generation(); }

    bool try_take_turn(std::uint64_t thread) noexcept { return turn_.try_take(thread); }
    bool has_turn(std::uint64_t thread) const noexcept { return turn_.is_mine(thread); }
    // See Turn: for a caller that finds the turn taken.
    Turn& turn() noexcept { return turn_; }
    void stop_waiting_for_turn(std::uint64_t thread) noexcept {
        turn_.delist(thread);
        run_pending();  // the turn may have been handed to this waiter, who does not want it any more
    }
    void give_turn_back() noexcept {
        turn_.give_back();
        run_pending();
    }

    // The calling thread's turn becomes an open chunk's. Returns its ticket, which is worth nothing if the end has been
    // shut down.
    std::uint64_t entrust_turn() noexcept {
        const std::uint64_t ticket = ++tickets_ << 1 | 1;
        chunk_thread_.store(platform::system_thread_id(), std::memory_order_relaxed);
        turn_.entrust(ticket);
        run_pending();
        return ticket;
    }
    // False: the chunk has been dropped.
    bool redeem_turn(std::uint64_t ticket) noexcept { return turn_.redeem(ticket, platform::thread_id()); }
    bool has_open_chunk() const noexcept { return turn_.ticket() != 0; }
    // Has this thread opened the chunk that is open now?
    bool opened_chunk() const noexcept {
        return has_open_chunk() && chunk_thread_.load(std::memory_order_relaxed) == platform::system_thread_id();
    }
    void drop_orphaned_chunk() noexcept {
        const std::uint64_t ticket = turn_.ticket();
        // If the thread is that of a later chunk, the ticket is worth nothing any more.
        if (ticket == 0 || platform::thread_lives(chunk_thread_.load(std::memory_order_relaxed)) ||
            !redeem_turn(ticket))
            return;
        drop_chunk();
        give_turn_back();
    }
    virtual void drop_chunk() noexcept = 0;  // with the turn

    void shut_down() noexcept {
        if (in_forked_child()) return;
        {
            const std::lock_guard guard(lifetime_);
            if (!segment_ || stopped()) return;
            ringcast::rouse<Native>(stopped_, parked_);
        }
        pending_.fetch_or(kFinish, std::memory_order_seq_cst);
        run_pending();
    }
    // After shut_down: unmaps, unless views keep the segment, as soon as nobody has the turn. The name goes at once.
    void release() noexcept {
        look([this] { segment_->unlink(); });
        pending_.fetch_or(kRelease, std::memory_order_seq_cst);
        run_pending();
    }
    // Runs `look` on the segment unless it has been released; for calls that take no turn.
    template <class Look>
    bool look(Look&& look_at) const {
        const std::lock_guard guard(lifetime_);
        if (segment_) look_at();
        return segment_ != nullptr;
    }

    // The call that waits now, or the next that does, ends its slice: what it looks at between slices has changed.
    void rouse() noexcept {
        look([this] { ringcast::rouse<Native>(roused_, parked_); });
    }
    bool take_rouse() noexcept {
        return roused_.load(std::memory_order_relaxed) && roused_.exchange(false, std::memory_order_relaxed);
    }

    // Since when (on the monotonic clock) a call has been waiting; 0: none is. For statistics, from any thread.
    std::int64_t waiting_since_ns() const noexcept { return waiting_since_ns_.load(std::memory_order_relaxed); }
    void note_waiting(std::int64_t since_ns) noexcept { waiting_since_ns_.store(since_ns, std::memory_order_relaxed); }

    // For calls that do not wait. With the turn.
    bool life_look_due() noexcept { return life_look_.is_due(); }

    void begin_wait() noexcept {
        waiter_.begin();
        if (waiter_.started_ns() - placed_at_ns_ > kPlacementNs) refresh_placement();
    }

    // Tells the others where this end may run, and finds out how many ends have no CPU of their own.
    void refresh_placement() noexcept {
        placed_at_ns_ = platform::monotonic_ns();
        const auto mine = platform::allowed_cpus();
        for (std::size_t i = 0; i < kCpuWords; ++i) cpus_[i].store(mine[i], std::memory_order_relaxed);

        const RingView<Native>& ring = segment_->ring();
        std::uint32_t ends = 1;
        platform::CpuMask all{};
        for (std::size_t i = 0; i < kCpuWords; ++i) all[i] = ring.control->cpus[i].load(std::memory_order_relaxed);
        for (std::uint32_t s = 0; s < ring.n_seats; ++s) {
            const auto& seat = ring.seats[s];
            if (seat_state(seat.state.load(std::memory_order_relaxed)) != SeatState::active) continue;
            ++ends;
            for (std::size_t i = 0; i < kCpuWords; ++i) all[i] |= seat.cpus[i].load(std::memory_order_relaxed);
        }
        std::uint32_t cpus = 0;
        for (const std::uint64_t word : all) cpus += static_cast<std::uint32_t>(__builtin_popcountll(word));
        waiter_.set_excess(std::int64_t{ends} - std::min(cpus, quota_));
    }

protected:
    virtual void finish() noexcept = 0;  // with the turn, once, after the last call
    bool roused() const noexcept { return roused_.load(std::memory_order_relaxed); }
    // With the turn, before the shared counters are somebody else's or are unmapped: from here on it counts for itself.
    void keep_counts() noexcept {
        const std::lock_guard guard(lifetime_);
        if (counters_ == &kept_) return;
        kept_.store(counters_->load());
        counters_ = &kept_;
        waiter_.count_in(kept_);
    }

    static_assert(kCpuWords == std::tuple_size_v<platform::CpuMask>);
    static constexpr std::int64_t kPlacementNs = 500'000'000;

    LifeLook life_look_;

    std::shared_ptr<Segment> segment_;
    Waiter<Native> waiter_;
    Parked<Native>& parked_;

private:
    static constexpr std::uint32_t kFinish = 1;
    static constexpr std::uint32_t kRelease = 2;

    // seq_cst against give_back's exchange: the one who gives the turn back sees the request, or the requester gets the
    // turn.
    void run_pending() noexcept {
        while (pending_.load(std::memory_order_seq_cst) != 0) {
            const std::uint64_t thread = platform::thread_id();
            if (!turn_.try_take(thread)) {
                const std::uint64_t ticket = turn_.ticket();
                if (ticket == 0 || !turn_.redeem(ticket, thread)) return;
                drop_chunk();
            }
            const std::uint32_t wanted = pending_.exchange(0, std::memory_order_seq_cst);
            if ((wanted & kFinish) != 0) finish();
            if ((wanted & kRelease) != 0) {
                keep_counts();
                const std::lock_guard guard(lifetime_);
                segment_.reset();
            }
            turn_.give_back();
        }
    }

    Counters* counters_;  // guarded by `lifetime_`; as the waiter has them
    Counters kept_{};
    std::atomic<std::uint64_t>* cpus_;
    std::uint32_t quota_;
    std::uint32_t fork_generation_ = platform::fork_generation();
    std::int64_t placed_at_ns_ = 0;
    std::atomic<std::int64_t> waiting_since_ns_{0};
    std::atomic<bool> stopped_{false};
    std::atomic<bool> roused_{false};
    std::atomic<std::uint32_t> pending_{0};
    Turn turn_;
    std::uint64_t tickets_ = 0;  // guarded by the turn
    std::atomic<std::uint64_t> chunk_thread_{0};
    mutable std::mutex lifetime_;  // held for moments, never while waiting and never while Python runs
};

}  // namespace ringcast
