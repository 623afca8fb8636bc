// BlockAllocator: size classes, their lists, and the chain of blocks in the order of their offsets.
#include "block_allocator.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <stdexcept>
#include <string>

namespace ringcast {

namespace {

// How many blocks of a class may turn out to have no room behind a page boundary before the next class is tried.
constexpr std::uint32_t kPatience = 8;
constexpr std::uint32_t kEndless = 0xffff'ffff;

void require(bool condition, const char* what) {
    if (!condition) throw std::logic_error(std::string("BlockAllocator: ") + what);
}

}  // namespace

BlockAllocator::BlockAllocator(std::uint64_t capacity, std::uint64_t page) : capacity_(capacity), page_(page) {
    assert(capacity % page == 0 && capacity <= kMaxCapacity);
    if (capacity == 0) return;
    make_spare(1);
    last_ = insert_before(kNone, 0, capacity);
    list(last_, false);
}

std::uint64_t BlockAllocator::alignment_of(std::uint64_t bytes) const noexcept {
    return bytes >= kOwnPagesBytes ? page_ : kUnit;
}

std::optional<BlockAllocator::Block> BlockAllocator::allocate(std::uint64_t bytes) {
    if (bytes == 0 || bytes > free_bytes()) return std::nullopt;
    const std::uint64_t alignment = alignment_of(bytes);
    const std::uint64_t least = aligned(bytes, alignment);
    std::uint64_t size = round_to_class(least);
    std::uint32_t at = find(size, alignment, kPatience);
    if (at == kNone) {
        size = least;
        at = find(size, alignment, kEndless);
        if (at == kNone) return std::nullopt;
    }
    return carve(at, aligned(nodes_[at].offset, alignment), size);
}

std::optional<BlockAllocator::Block> BlockAllocator::allocate_exactly(std::uint64_t bytes) {
    if (bytes == 0 || bytes > free_bytes()) return std::nullopt;
    const std::uint64_t alignment = alignment_of(bytes);
    const std::uint64_t size = aligned(bytes, alignment);
    const std::uint32_t at = find(size, alignment, kEndless);
    if (at == kNone) return std::nullopt;
    return carve(at, aligned(nodes_[at].offset, alignment), size);
}

std::optional<BlockAllocator::Block> BlockAllocator::claim(std::uint64_t offset, std::uint64_t bytes) {
    const std::uint64_t size = aligned(bytes, alignment_of(bytes));
    if (last_ == kNone || !is_free(last_) || bytes == 0 || offset < nodes_[last_].offset || offset % kUnit != 0 ||
        size > capacity_ || offset > capacity_ - size)
        return std::nullopt;
    return carve(last_, offset, size);
}

void BlockAllocator::free(std::uint32_t node) noexcept {
    assert(node < nodes_.size() && nodes_[node].next == kAllocated);
    used_bytes_ -= nodes_[node].size;
    --blocks_;
    const std::uint32_t before = nodes_[node].before;
    if (before != kNone && is_free(before)) {
        unlist(before);
        nodes_[node].offset = nodes_[before].offset;
        nodes_[node].size += nodes_[before].size;
        remove(before);
    }
    const std::uint32_t after = nodes_[node].after;
    if (after != kNone && is_free(after)) {
        unlist(after);
        nodes_[node].size += nodes_[after].size;
        remove(after);
    }
    list(node, true);
}

std::uint64_t BlockAllocator::largest_free() const noexcept {
    if (first_level_ == 0) return 0;
    const auto first = static_cast<std::uint32_t>(std::bit_width(first_level_)) - 1;
    const auto second = static_cast<std::uint32_t>(std::bit_width(second_level_[first])) - 1;
    const std::uint32_t front = class_fronts_[first * kSecond + second];
    std::uint64_t largest = 0;
    std::uint32_t at = front;
    do {
        largest = std::max(largest, nodes_[at].size);
        at = nodes_[at].next;
    } while (at != front);
    return largest;
}

// The class whose sizes include `size`.
std::uint32_t BlockAllocator::class_of(std::uint64_t size) noexcept {
    const std::uint64_t units = size / kUnit;
    if (units < kSecond) return static_cast<std::uint32_t>(units);
    const auto shift = static_cast<std::uint32_t>(std::bit_width(units)) - 1 - kSecondBits;
    // The top bit of the shifted units says "+ kSecond": first level shift + 1, second level the bits below it.
    return shift * kSecond + static_cast<std::uint32_t>(units >> shift);
}

// The least size of a class that is not below `size`. A multiple of the page stays one: from kOwnPagesBytes on, classes are
// either whole pages apart or a fraction of a page that divides it.
std::uint64_t BlockAllocator::round_to_class(std::uint64_t size) noexcept {
    const std::uint64_t units = size / kUnit;
    if (units < kSecond) return size;
    return aligned(size, (std::bit_floor(units) / kSecond) * kUnit);
}

// The lowest class from `wanted` on with a free block, or kNone.
std::uint32_t BlockAllocator::class_from(std::uint32_t wanted) const noexcept {
    std::uint32_t first = wanted / kSecond;
    if (first >= kFirst) return kNone;
    std::uint32_t seconds = second_level_[first] & (~std::uint32_t{0} << wanted % kSecond);
    if (seconds == 0) {
        const std::uint64_t firsts = first_level_ & (~std::uint64_t{0} << (first + 1));
        if (firsts == 0) return kNone;
        first = static_cast<std::uint32_t>(std::countr_zero(firsts));
        seconds = second_level_[first];
    }
    return first * kSecond + static_cast<std::uint32_t>(std::countr_zero(seconds));
}

// A free block with room for an aligned block of `size`, from the lowest class that has one among the first `patience`
// blocks of its list. Every block of a class whose least size is `size` plus what alignment can cost has room: such a
// class ends the search with its first block, and no more than three classes lie below it and have blocks of `size`,
// or four if `size` is not the least of its class.
std::uint32_t BlockAllocator::find(std::uint64_t size, std::uint64_t alignment, std::uint32_t patience) const noexcept {
    for (std::uint32_t in = class_from(class_of(size)); in != kNone; in = class_from(in + 1)) {
        const std::uint32_t front = class_fronts_[in];
        std::uint32_t at = front;
        std::uint32_t left = patience;
        do {
            const Node& node = nodes_[at];
            if (aligned(node.offset, alignment) + size <= node.offset + node.size) return at;
            at = node.next;
        } while (at != front && --left != 0);
    }
    return kNone;
}

// Allocates `size` bytes at `offset`, in the free block `at`, which has room there.
BlockAllocator::Block BlockAllocator::carve(std::uint32_t at, std::uint64_t offset, std::uint64_t size) {
    make_spare(2);  // here, where to fail has changed nothing yet
    const std::uint64_t begin = nodes_[at].offset;
    const std::uint64_t end = begin + nodes_[at].size;
    const std::uint64_t rest = end - offset - size;
    if (offset != begin) list(insert_before(at, begin, offset - begin), false);
    std::uint32_t taken = at;
    if (rest == 0) {
        unlist(at);
        nodes_[at].offset = offset;
        nodes_[at].size = size;
    } else {
        // `at` stays what is free. Mostly it is much larger than what is taken from it, and stays in its class too.
        taken = insert_before(at, offset, size);
        const bool moves = class_of(rest) != class_of(end - begin);
        if (moves) unlist(at);
        nodes_[at].offset = end - rest;
        nodes_[at].size = rest;
        if (moves) list(at, false);
    }
    nodes_[taken].next = kAllocated;
    used_bytes_ += size;
    ++blocks_;
    return Block{taken, offset, size};
}

void BlockAllocator::make_spare(std::uint32_t wanted) {
    while (n_spare_ < wanted) {
        nodes_.push_back(Node{0, 0, kNone, spare_, kNone, kSpare});
        spare_ = static_cast<std::uint32_t>(nodes_.size() - 1);
        ++n_spare_;
    }
}

// A spare node becomes the block before `at`, or the only one (kNone). The caller says next whether it is free.
std::uint32_t BlockAllocator::insert_before(std::uint32_t at, std::uint64_t offset, std::uint64_t size) noexcept {
    const std::uint32_t made = spare_;
    spare_ = nodes_[made].after;
    --n_spare_;
    const std::uint32_t before = at == kNone ? kNone : nodes_[at].before;
    nodes_[made] = Node{offset, size, before, at, kNone, kAllocated};
    if (before != kNone) nodes_[before].after = made;
    if (at != kNone) nodes_[at].before = made;
    return made;
}

// The block `at`, in no list, is part of a neighbour now; its node is spare.
void BlockAllocator::remove(std::uint32_t at) noexcept {
    Node& node = nodes_[at];
    if (node.before != kNone) nodes_[node.before].after = node.after;
    if (node.after != kNone) {
        nodes_[node.after].before = node.before;
    } else {
        last_ = node.before;
    }
    node.after = spare_;
    node.next = kSpare;
    spare_ = at;
    ++n_spare_;
}

// The block `at` is free from now on: first or last in the list of its class.
void BlockAllocator::list(std::uint32_t at, bool in_front) noexcept {
    const std::uint32_t in = class_of(nodes_[at].size);
    const std::uint32_t bit = 1u << in % kSecond;
    std::uint32_t& seconds = second_level_[in / kSecond];
    if ((seconds & bit) == 0) {
        seconds |= bit;
        first_level_ |= std::uint64_t{1} << in / kSecond;
        nodes_[at].previous = nodes_[at].next = class_fronts_[in] = at;
        return;
    }
    const std::uint32_t front = class_fronts_[in];
    const std::uint32_t back = nodes_[front].previous;
    nodes_[at].previous = back;
    nodes_[at].next = front;
    nodes_[front].previous = nodes_[back].next = at;
    if (in_front) class_fronts_[in] = at;
}

// Takes the block `at` out of its list; its size is still what it was when it went in.
void BlockAllocator::unlist(std::uint32_t at) noexcept {
    const Node& node = nodes_[at];
    const std::uint32_t in = class_of(node.size);
    if (node.next == at) {
        std::uint32_t& seconds = second_level_[in / kSecond];
        seconds &= ~(1u << in % kSecond);
        if (seconds == 0) first_level_ &= ~(std::uint64_t{1} << in / kSecond);
        return;
    }
    nodes_[node.previous].next = node.next;
    nodes_[node.next].previous = node.previous;
    if (class_fronts_[in] == at) class_fronts_[in] = node.next;
}

void BlockAllocator::check() const {
    std::uint64_t end = capacity_;
    std::uint64_t used_bytes = 0;
    std::uint64_t blocks = 0;
    std::uint64_t n_free = 0;
    std::uint32_t after = kNone;
    for (std::uint32_t at = last_; at != kNone; after = at, at = nodes_[at].before) {
        const Node& node = nodes_[at];
        require(node.next != kSpare, "a spare node in the chain");
        require(node.after == after, "the chain's links disagree");
        require(node.size != 0 && node.size % kUnit == 0 && node.size <= end, "a block of a wrong size");
        require(node.offset == end - node.size, "a gap or an overlap");
        require(!is_free(at) || after == kNone || !is_free(after), "two free neighbours");
        if (is_free(at)) {
            ++n_free;
        } else {
            used_bytes += node.size;
            ++blocks;
        }
        end = node.offset;
    }
    require(end == 0, "the chain does not cover everything");
    require(used_bytes == used_bytes_ && blocks == blocks_, "wrong totals");

    std::uint64_t n_listed = 0;
    for (std::uint32_t in = 0; in < kClasses; ++in) {
        const std::uint32_t seconds = second_level_[in / kSecond];
        require((seconds != 0) == ((first_level_ >> in / kSecond & 1) != 0), "the bitmaps' levels disagree");
        if ((seconds >> in % kSecond & 1) == 0) continue;
        std::uint32_t at = class_fronts_[in];
        do {
            require(at < nodes_.size() && is_free(at), "a block in a list that is not free");
            require(class_of(nodes_[at].size) == in, "a block in a wrong list");
            require(nodes_[nodes_[at].next].previous == at, "a list's links disagree");
            require(++n_listed <= n_free, "a list without an end");
            at = nodes_[at].next;
        } while (at != class_fronts_[in]);
    }
    require(n_listed == n_free, "a free block in no list");

    std::uint64_t n_spare = 0;
    for (std::uint32_t at = spare_; at != kNone; at = nodes_[at].after) {
        require(nodes_[at].next == kSpare, "a spare node in use");
        require(++n_spare <= n_spare_, "more spare nodes than counted");
    }
    require(n_spare == n_spare_ && n_spare + n_free + blocks == nodes_.size(), "a lost node");
}

}  // namespace ringcast
