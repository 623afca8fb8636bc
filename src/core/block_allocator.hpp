// Which bytes of an address space are taken: blocks of any size, allocated and freed in any order, in constant time.
//
// A two-level segregated fit (M. Masmano, I. Ripoll, A. Crespo, J. Real, "TLSF: a new dynamic memory allocator for
// real-time systems", ECRTS 2004) with its book-keeping outside the memory it hands out: that memory is shared, and no
// reader may be able to corrupt the structure; nor should looking for a block touch a page that has no memory yet.
//
// A block that comes back goes to the front of the list of its class, so requests of one size get the block freed last,
// whose bytes are the likeliest to be in a cache. What a split leaves over goes to the back. (A block whose neighbour
// is free becomes one with it at once; the next request then gets the low end of the two.)
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "layout.hpp"

namespace ringcast {

class BlockAllocator {
public:
    static constexpr std::uint64_t kUnit = 64;
    static constexpr std::uint64_t kMaxCapacity = std::uint64_t{1} << 44;

    struct Block {
        std::uint32_t node;  // for `free`
        std::uint64_t offset;
        std::uint64_t size;  // what was asked for, rounded up
    };

    // `capacity` is a multiple of `page`, a power of two of at most kOwnPagesBytes, and at most kMaxCapacity. In 0 bytes
    // nothing fits. Requests of kOwnPagesBytes and more begin on a page and take whole pages, so that their memory can
    // be given back.
    BlockAllocator(std::uint64_t capacity, std::uint64_t page);

    // The low end of a free block, or nothing if no free block is large enough. `bytes` is at least 1. Constant time,
    // but for requests that fit only without rounding up to a size class: these look through up to four lists.
    std::optional<Block> allocate(std::uint64_t bytes);

    // The same without rounding up to a size class: so many blocks as fit can be had, of sizes that follow from what was
    // asked for. Quick where the sizes are few.
    std::optional<Block> allocate_exactly(std::uint64_t bytes);

    // The block that `allocate_exactly(bytes)` once gave at `offset`, which lies behind all that are allocated now. Nothing
    // if there can be none.
    std::optional<Block> claim(std::uint64_t offset, std::uint64_t bytes);

    // `node` is of a block that was allocated and has not been freed since.
    void free(std::uint32_t node) noexcept;

    std::uint64_t offset(std::uint32_t node) const noexcept { return nodes_[node].offset; }
    std::uint64_t capacity() const noexcept { return capacity_; }
    std::uint64_t used_bytes() const noexcept { return used_bytes_; }
    std::uint64_t free_bytes() const noexcept { return capacity_ - used_bytes_; }
    std::uint64_t blocks() const noexcept { return blocks_; }
    bool empty() const noexcept { return blocks_ == 0; }

    // The size of the largest free block, 0 if there is none. Looks through the list of the highest class.
    std::uint64_t largest_free() const noexcept;

    // Calls f(offset, size) for each free block, highest offset first, until it returns false. It must not change the
    // allocator. It passes the allocated blocks on its way, so it takes time in their number too.
    template <class F>
    void for_each_free_from_top(F&& f) const {
        for (std::uint32_t at = last_; at != kNone; at = nodes_[at].before) {
            if (is_free(at) && !f(nodes_[at].offset, nodes_[at].size)) return;
        }
    }

    // For tests: throws std::logic_error if anything is not as it should be.
    void check() const;

private:
    // Sizes count in units. Below kSecond units a class is one size; above, each power of two has kSecond classes, and
    // a class holds the sizes from its own least size to the least size of the next.
    static constexpr std::uint32_t kSecondBits = 5;
    static constexpr std::uint32_t kSecond = 1u << kSecondBits;
    static constexpr std::uint32_t kFirst = 35;  // up to 2^44 bytes, that is 2^38 units
    static constexpr std::uint32_t kClasses = kFirst * kSecond;
    static constexpr std::uint32_t kNone = 0xffff'ffff;
    // In `next` of a node that is in no list, because its block is allocated or because it has no block.
    static constexpr std::uint32_t kAllocated = 0xffff'fffe;
    static constexpr std::uint32_t kSpare = 0xffff'fffd;

    struct Node {
        std::uint64_t offset;
        std::uint64_t size;
        std::uint32_t before;    // the block that ends where this one begins
        std::uint32_t after;     // the block that begins where this one ends; of a spare node, the next spare
        std::uint32_t previous;  // in the list of its class, a ring: the first one's previous is the last
        std::uint32_t next;
    };

    static std::uint32_t class_of(std::uint64_t size) noexcept;
    static std::uint64_t round_to_class(std::uint64_t size) noexcept;
    static std::uint64_t aligned(std::uint64_t offset, std::uint64_t alignment) noexcept {
        return (offset + alignment - 1) & ~(alignment - 1);
    }

    bool is_free(std::uint32_t at) const noexcept { return nodes_[at].next < kSpare; }
    std::uint32_t class_from(std::uint32_t wanted) const noexcept;
    std::uint32_t find(std::uint64_t size, std::uint64_t alignment, std::uint32_t patience) const noexcept;
    Block carve(std::uint32_t at, std::uint64_t offset, std::uint64_t size);
    std::uint64_t alignment_of(std::uint64_t bytes) const noexcept;

    void make_spare(std::uint32_t wanted);
    std::uint32_t insert_before(std::uint32_t at, std::uint64_t offset, std::uint64_t size) noexcept;
    void remove(std::uint32_t at) noexcept;
    void list(std::uint32_t at, bool in_front) noexcept;
    void unlist(std::uint32_t at) noexcept;

    std::uint64_t capacity_;
    std::uint64_t page_;
    std::uint64_t used_bytes_ = 0;
    std::uint64_t blocks_ = 0;
    std::vector<Node> nodes_;
    std::uint32_t last_ = kNone;   // the block at the highest offset
    std::uint32_t spare_ = kNone;  // nodes without a block
    std::uint32_t n_spare_ = 0;
    std::uint64_t first_level_ = 0;                       // a bit for each word of second_level_ that is not 0
    std::array<std::uint32_t, kFirst> second_level_{};    // a bit for each list that is not empty
    std::array<std::uint32_t, kClasses> class_fronts_{};  // valid where the bit is set
};

}  // namespace ringcast
