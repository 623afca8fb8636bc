// A lease: a reader's right to read a block for as long as it likes, long after the ring has moved on.
//
// It is given back when it is destroyed, in any order and by any thread. That takes no turn and never waits, so it may
// happen in a finalizer. A lease keeps the segment mapped and its seat's lock held, also after its queue's end is closed.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "heirs.hpp"
#include "marks.hpp"
#include "parking.hpp"
#include "seat_estate.hpp"
#include "segment.hpp"

namespace ringcast {

// The seat's lock, shared by the end that took the seat and by its leases; dropped with the last of them.
class SeatHold {
public:
    SeatHold(std::shared_ptr<Segment> segment, std::uint32_t seat)
        : segment_(std::move(segment)), seat_(seat), estate_(*segment_, seat), heirs_(estate_) {}
    ~SeatHold() {
        // In a forked child the lock is the parent's; its descriptor was closed there.
        if (!in_forked_child()) segment_->locks().unlock(seat_lock(seat_));
    }
    SeatHold(const SeatHold&) = delete;
    SeatHold& operator=(const SeatHold&) = delete;

    const Segment& segment() const noexcept { return *segment_; }
    std::uint32_t seat() const noexcept { return seat_; }
    bool in_forked_child() const noexcept { return fork_generation_ != platform::fork_generation(); }
    SeatEstate& estate() noexcept { return estate_; }
    // False: it is in a selection already.
    bool enter_selection() noexcept { return !in_selection_.exchange(true, std::memory_order_relaxed); }
    void leave_selection() noexcept { in_selection_.store(false, std::memory_order_relaxed); }
    bool in_selection() const noexcept { return in_selection_.load(std::memory_order_relaxed); }

private:
    std::shared_ptr<Segment> segment_;
    std::uint32_t seat_;
    std::uint32_t fork_generation_ = platform::fork_generation();
    std::atomic<bool> in_selection_{false};
    SeatEstate estate_;
    Heirs heirs_;
};

class Lease {
public:
    // What the block's bytes are read through: the shared mapping, by who shows them to nobody, or the private one.
    enum class Through { shared, private_readonly, private_writable };
    struct Block {
        std::uint64_t offset;
        std::uint64_t bytes;
        std::uint64_t position;
        std::uint32_t row;
        Through through;
    };

    Lease(std::shared_ptr<SeatHold> hold, const Block& block) noexcept
        : hold_(std::move(hold)), block_(block), number_(hold_->estate().leased(block.position)) {
        if (block.through == Through::private_readonly) faults_ = hold_->segment().private_data()->faults();
        count(1);
    }
    ~Lease() {
        if (hold_ == nullptr || hold_->in_forked_child()) return;
        const Segment& segment = hold_->segment();
        // Before the mark, after which the block may carry another message.
        if (block_.through != Through::shared)
            segment.private_data()->close(block_.offset, block_.bytes, block_.through == Through::private_writable,
                                          faults_);
        if (hold_->estate().is_kept(number_)) return;  // a child has it for good
        count(-1);
        mark_done(segment.ring(), hold_->seat(), block_.row, mark_of(block_.position));
        platform::Native::fence_seq_cst();  // [signal] for the mark
        auto& parked = segment.ring().control->writer_parked;
        if (parked.word.load(std::memory_order_relaxed) == kAnySeat) unpark<platform::Native>(parked);
    }
    Lease(Lease&& other) noexcept
        : hold_(std::move(other.hold_)), block_(other.block_), number_(other.number_), faults_(other.faults_) {}

private:
    // Modulo 2^64, -1 is subtraction.
    void count(std::int64_t by) noexcept {
        NativeSeat& seat = hold_->segment().ring().seats[hold_->seat()];
        seat.leased_blocks.fetch_add(static_cast<std::uint64_t>(by), std::memory_order_relaxed);
        seat.leased_bytes.fetch_add(static_cast<std::uint64_t>(by) * block_.bytes, std::memory_order_relaxed);
    }

    std::shared_ptr<SeatHold> hold_;
    Block block_;
    std::uint64_t number_;
    std::uint64_t faults_ = 0;  // see PrivateData
};

}  // namespace ringcast
