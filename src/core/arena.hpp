// The arena: where messages that do not fit inline lie, from reserving to the last reader's release.
//
// Only the writer allocates, and all book-keeping is its private memory, so no reader can corrupt it. A block goes
// through: placed (reserved, not published), unread (published, and a gating reader has not passed its message), held
// (passed, and somebody may still read it), free. Address space is several times the budget; what has memory is counted
// in pages, never above the budget. Where free memory is in pieces too small for a block, it is taken from those pieces
// and given to the pages of a larger one: slower than using it where it is, but nobody has to wait for it.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "block_allocator.hpp"
#include "marks.hpp"
#include "page_map.hpp"
#include "segment.hpp"

namespace ringcast {

class Arena {
public:
    explicit Arena(Segment& segment);

    struct Place {
        std::uint64_t offset;
        std::uint32_t node;
        std::uint32_t row;
    };
    // Why a block could not be had. `none` after success.
    enum class Refusal { none, rows, memory, fragments, machine };

    // A block for a message of `bytes`. False: it has to be waited for, and `refusal` says why.
    // Throws capacity if the machine is out of memory and there is nothing that could come back.
    bool place(std::uint64_t bytes, Place& place);
    void cancel(const Place& place) noexcept { free(place.node, place.row); }
    // The block is message `position` from now on. `loan` is not 0 if a view of the writer's own may be on it.
    void publish(const Place& place, std::uint64_t position, std::uint64_t loan);
    // The block was not published, but a view of the writer's own is on it.
    void abandon(const Place& place, std::uint64_t loan) noexcept;

    // How closely a reclaim looks: at so many of the blocks that are held; at all; at all, asking the kernel about the life
    // of those who may hold them.
    enum class Look { hurried, thorough, asking };
    // Frees the blocks that nobody reads any more, of messages before `gate`.
    void reclaim(std::uint64_t gate, Look look);
    // Has something happened since a refusal that makes it worth while to reclaim and try again? `passed(position)`
    // says whether the reader that is waited for has read the message. Changes nothing.
    template <class Passed>
    bool may_have_room(Passed&& passed) const noexcept {
        if (!unread_.empty() && passed(unread_.front().position)) return true;
        for (const Block& block : held_)
            if (!is_held_by(block, block.holder)) return true;
        return false;
    }
    // A while is over. What the largest use of this one and the last did not need is idle, but for a little.
    void end_window() noexcept;
    // Gives a bounded piece of the idle memory back: some 0.5 ms. False: there is none, or it cannot be given back.
    bool give_back_piece();
    // Has it memory that is idle or may become so, and that is worth looking after?
    bool may_become_idle() const noexcept {
        return pages_.count() > kIdleBytes && (able_to_shrink_ || !allocator_.empty());
    }

    Refusal refusal() const noexcept { return refusal_; }
    std::string explain_refusal(std::uint64_t bytes) const;
    bool any_unread() const noexcept { return !unread_.empty(); }
    std::uint64_t oldest_unread() const noexcept { return unread_.front().position; }  // only if there are any
    std::uint64_t memory() const noexcept { return pages_.count(); }
    std::uint64_t used_bytes() const noexcept { return allocator_.used_bytes(); }
    std::uint64_t loaned_blocks() const noexcept;  // on which this process has views of its own
    std::uint64_t blocks() const noexcept { return allocator_.blocks(); }
    std::uint64_t frees() const noexcept { return frees_; }  // blocks that have come back, ever
    // Of the free address space, how much is not in its largest piece.
    std::uint64_t scattered_bytes() const noexcept { return allocator_.free_bytes() - allocator_.largest_free(); }

private:
    struct Block {
        std::uint64_t position;
        std::uint64_t loan;
        std::uint32_t node;
        std::uint32_t row;
        std::uint32_t holder;  // a seat that may read it, or the writer's column: the first found, looked at first
    };
    static constexpr std::uint64_t kAbandoned = UINT64_MAX;   // as position: was never published
    static constexpr std::uint64_t kGrowthBytes = 256 << 10;  // small blocks get memory in steps of this
    static constexpr std::uint64_t kIdleBytes = 1 << 20;      // not worth giving back
    static constexpr std::uint64_t kPieceBytes = 2 << 20;
    static constexpr std::size_t kHurriedLook = 64;  // held blocks looked at by a hurried reclaim

    bool is_held_by(const Block& block, std::uint32_t column) const noexcept;
    bool is_held(Block& block, bool ask_kernel) const;
    bool commit(std::uint64_t begin, std::uint64_t end);
    bool reserve(std::uint64_t begin, std::uint64_t end);
    // Gives memory of free blocks back, highest first, until there is no more than so much.
    void shrink(std::uint64_t memory);
    void free(std::uint32_t node, std::uint32_t row) noexcept;
    void count_use() noexcept;

    Segment& segment_;
    RingView<platform::Native> ring_;
    std::uint64_t budget_;
    std::uint64_t page_;
    BlockAllocator allocator_;
    PageMap pages_;
    std::vector<std::uint32_t> rows_;  // free ones, the last freed last
    std::deque<Block> unread_;         // by position
    std::vector<Block> held_;
    std::size_t next_held_ = 0;
    std::uint64_t frees_ = 0;
    Refusal refusal_ = Refusal::none;
    std::uint64_t peak_ = 0;  // most bytes used in this window, and in the last
    std::uint64_t last_peak_ = 0;
    std::uint64_t idle_beyond_ = UINT64_MAX;  // of the memory; what the peaks of the last two windows need
    bool able_to_shrink_ = true;
};

}  // namespace ringcast
