// A lease: a reader's right to read a block for as long as it likes, long after the ring has moved on.
//
// It is given back when it is destroyed, in any order and by any thread. That takes no turn and never waits, so it may
// happen in a finalizer. A lease keeps the segment mapped and its seat's lock held, also after its queue's end is closed.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "marks.hpp"
#include "parking.hpp"
#include "segment.hpp"

namespace ringcast {

// The seat's lock, shared by the end that took the seat and by its leases; dropped with the last of them.
class SeatHold {
public:
    SeatHold(std::shared_ptr<Segment> segment, std::uint32_t seat) : segment_(std::move(segment)), seat_(seat) {}
    ~SeatHold() {
        // In a forked child the lock is the parent's; its descriptor was closed there.
        if (fork_generation_ == platform::fork_generation()) segment_->locks().unlock(seat_lock(seat_));
    }
    SeatHold(const SeatHold&) = delete;
    SeatHold& operator=(const SeatHold&) = delete;

    const Segment& segment() const noexcept { return *segment_; }
    std::uint32_t seat() const noexcept { return seat_; }
    bool in_forked_child() const noexcept { return fork_generation_ != platform::fork_generation(); }

private:
    std::shared_ptr<Segment> segment_;
    std::uint32_t seat_;
    std::uint32_t fork_generation_ = platform::fork_generation();
};

class Lease {
public:
    struct Block {
        std::uint64_t offset;
        std::uint64_t bytes;
        std::uint64_t position;
        std::uint32_t row;
    };

    Lease(std::shared_ptr<SeatHold> hold, const Block& block) : hold_(std::move(hold)), block_(block) { count(1); }
    ~Lease() {
        if (hold_ == nullptr || hold_->in_forked_child()) return;
        const Segment& segment = hold_->segment();
        // Before the mark, after which the block may carry another message. Where the system refuses, this reader's next
        // views are copies.
        if (changed_.load(std::memory_order_relaxed) &&
            !platform::discard_private(segment.private_data() + block_.offset,
                                       round_up(block_.bytes, platform::page_bytes())))
            segment.private_data_was_left_dirty();
        count(-1);
        mark_done(segment.ring(), hold_->seat(), block_.row, mark_of(block_.position));
        platform::Native::fence_seq_cst();  // [signal] for the mark
        auto& parked = segment.ring().control->writer_parked;
        if (parked.load(std::memory_order_relaxed) == kAnySeat) unpark<platform::Native>(parked);
    }
    Lease(Lease&& other) noexcept
        : hold_(std::move(other.hold_)),
          block_(other.block_),
          changed_(other.changed_.load(std::memory_order_relaxed)) {}

    const std::byte* bytes() const noexcept { return hold_->segment().data() + block_.offset; }
    std::uint64_t length() const noexcept { return block_.bytes; }

    // The same bytes in a mapping of this process alone, to be changed in place; null unless the segment has such a
    // mapping and the block has its pages to itself.
    std::byte* private_bytes() noexcept {
        std::byte* base = hold_->segment().private_data();
        if (base == nullptr || block_.bytes < kOwnPagesBytes || !hold_->segment().private_data_is_clean())
            return nullptr;
        changed_.store(true, std::memory_order_relaxed);
        return base + block_.offset;
    }

private:
    // Modulo 2^64, -1 is subtraction.
    void count(std::int64_t by) noexcept {
        NativeSeat& seat = hold_->segment().ring().seats[hold_->seat()];
        seat.leased_blocks.fetch_add(static_cast<std::uint64_t>(by), std::memory_order_relaxed);
        seat.leased_bytes.fetch_add(static_cast<std::uint64_t>(by) * block_.bytes, std::memory_order_relaxed);
    }

    std::shared_ptr<SeatHold> hold_;
    Block block_;
    std::atomic<bool> changed_{false};
};

}  // namespace ringcast
