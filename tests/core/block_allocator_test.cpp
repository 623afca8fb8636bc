// BlockAllocator against a naive model, a map of what is allocated: nothing overlaps or is lost, what fits is given.
#include "block_allocator.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdlib>
#include <map>
#include <new>
#include <random>
#include <utility>
#include <vector>

#include "check.hpp"

using ringcast::BlockAllocator;

namespace {
std::uint64_t n_new = 0;
}

// Counts what the allocator asks of the heap.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
    ++n_new;
    if (void* made = std::malloc(bytes)) return made;
    throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* at) noexcept { std::free(at); }
[[gnu::noinline]] void operator delete(void* at, std::size_t) noexcept { std::free(at); }

namespace {

using Block = BlockAllocator::Block;
using Holes = std::vector<std::pair<std::uint64_t, std::uint64_t>>;  // offset and size, highest first

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kMiB = 1024 * kKiB;

std::uint64_t up(std::uint64_t value, std::uint64_t unit) { return (value + unit - 1) / unit * unit; }

std::uint64_t alignment_of(std::uint64_t bytes) { return bytes >= 64 * kKiB ? 4096 : 64; }

// At most this may a request become: 32 sizes for each power of two, and below 2 KiB one for each 64 bytes.
std::uint64_t rounded(std::uint64_t bytes) {
    const std::uint64_t least = up(bytes, alignment_of(bytes));
    return up(least, std::max<std::uint64_t>(64, std::bit_floor(least) / 32));
}

Holes holes_of(const BlockAllocator& allocator) {
    Holes holes;
    allocator.for_each_free_from_top([&](std::uint64_t offset, std::uint64_t size) {
        holes.emplace_back(offset, size);
        return true;
    });
    return holes;
}

Block must(BlockAllocator& allocator, std::uint64_t bytes) {
    const auto block = allocator.allocate(bytes);
    CHECK(block.has_value());
    return *block;
}

struct Model {
    std::uint64_t capacity;
    std::map<std::uint64_t, Block> live{};
    std::uint64_t used = 0;

    Holes holes() const {
        Holes all;
        std::uint64_t end = 0;
        for (const auto& [offset, block] : live) {
            if (offset != end) all.emplace_back(end, offset - end);
            end = offset + block.size;
        }
        if (end != capacity) all.emplace_back(end, capacity - end);
        std::reverse(all.begin(), all.end());
        return all;
    }
    static bool fits(const Holes& holes, std::uint64_t bytes) {
        const std::uint64_t alignment = alignment_of(bytes);
        return std::any_of(holes.begin(), holes.end(), [&](const auto& hole) {
            return up(hole.first, alignment) + up(bytes, alignment) <= hole.first + hole.second;
        });
    }
    void add(const Block& block) {
        const auto behind = live.lower_bound(block.offset);
        CHECK(block.offset + block.size <= (behind == live.end() ? capacity : behind->first));
        if (behind != live.begin()) {
            const auto before = std::prev(behind);
            CHECK(before->first + before->second.size <= block.offset);
        }
        live.emplace(block.offset, block);
        used += block.size;
    }
};

// How many of the requests only just fitted or did not: a run should see both.
struct Seen {
    int exact = 0;
    int refused = 0;
};

Seen run(std::uint32_t seed, std::uint64_t capacity, std::uint64_t largest, std::vector<std::uint64_t>* offsets = {}) {
    std::mt19937 random(seed);
    const auto below = [&](std::uint64_t limit) {
        return std::uniform_int_distribution<std::uint64_t>(0, limit - 1)(random);
    };
    BlockAllocator allocator(capacity, kPage);
    Model model{capacity};
    Seen seen;
    std::vector<Block> order;
    std::uint64_t filling = 70;  // of 100 steps, how many allocate; by turns the allocator fills and empties
    for (int step = 0; step < 2000; ++step) {
        if (step % 300 == 299) filling = 100 - filling;
        if (below(100) < filling) {
            std::uint64_t bytes = 1 + below(below(4) == 0 ? largest : largest / 16 + 1);
            if (below(3) == 0) bytes = 1 + below(below(2) == 0 ? 64 : 4096);
            const Holes before = model.holes();
            if (below(20) == 0 && !before.empty()) bytes = before[below(before.size())].second;  // fill a hole
            const auto block = allocator.allocate(bytes);
            CHECK(block.has_value() == Model::fits(before, bytes));
            if (offsets != nullptr) offsets->push_back(block ? block->offset : ~std::uint64_t{0});
            if (!block) {
                ++seen.refused;
                continue;
            }
            CHECK(block->offset % alignment_of(bytes) == 0);
            CHECK(block->size == rounded(bytes) || block->size == up(bytes, alignment_of(bytes)));
            if (block->size != rounded(bytes)) ++seen.exact;
            if (model.live.empty()) CHECK(block->offset == 0);
            model.add(*block);
            order.push_back(*block);
        } else if (!order.empty()) {
            std::swap(order[below(order.size())], order.back());
            model.live.erase(order.back().offset);
            model.used -= order.back().size;
            allocator.free(order.back().node);
            order.pop_back();
        }
        if (step < 700 || step % 64 == 0) allocator.check();
        const Holes holes = model.holes();
        CHECK(holes_of(allocator) == holes);  // so it has no two neighbours, either
        std::uint64_t widest = 0;
        for (const auto& hole : holes) widest = std::max(widest, hole.second);
        CHECK(allocator.largest_free() == widest);
        CHECK(allocator.used_bytes() == model.used);
        CHECK(allocator.free_bytes() == capacity - model.used);
        CHECK(allocator.blocks() == order.size());
        CHECK(allocator.empty() == order.empty());
    }
    for (const Block& block : order) allocator.free(block.node);
    allocator.check();
    CHECK(allocator.empty() && allocator.largest_free() == capacity);
    return seen;
}

}  // namespace

TEST(whatever_the_order_of_operations_nothing_overlaps_and_what_fits_is_given) {
    Seen all;
    for (std::uint32_t seed = 0; seed < 6u * check::kScale; ++seed) {
        for (const auto& [capacity, largest] : {std::pair{4 * kKiB, 1 * kKiB}, std::pair{64 * kKiB, 16 * kKiB},
                                                std::pair{1 * kMiB, 200 * kKiB}, std::pair{16 * kMiB, 4 * kMiB}}) {
            const Seen seen = run(seed, capacity, largest);
            all.exact += seen.exact;
            all.refused += seen.refused;
        }
        run(seed, BlockAllocator::kMaxCapacity, BlockAllocator::kMaxCapacity / 8);
        run(seed, 0, 100);
    }
    CHECK(all.exact > 0);
    CHECK(all.refused > 0);
}

TEST(the_same_operations_give_the_same_offsets) {
    std::vector<std::uint64_t> once;
    std::vector<std::uint64_t> again;
    run(1, 4 * kMiB, 300 * kKiB, &once);
    run(1, 4 * kMiB, 300 * kKiB, &again);
    CHECK(once == again);
}

TEST(requests_of_one_size_get_the_block_freed_last) {
    for (const std::uint64_t bytes : {1 * kKiB, 5 * kKiB, 33 * kKiB, 100 * kKiB, 1 * kMiB}) {
        BlockAllocator allocator(64 * kMiB, kPage);
        std::vector<Block> blocks;
        for (int i = 0; i < 16; ++i) blocks.push_back(must(allocator, bytes));
        for (std::size_t i = 1; i < 16; ++i) CHECK(blocks[i].offset == blocks[i - 1].offset + blocks[i - 1].size);
        for (const std::size_t i : {2u, 8u, 4u, 12u}) allocator.free(blocks[i].node);  // no two of them neighbours
        for (const std::size_t i : {12u, 4u, 8u, 2u}) {
            const Block block = must(allocator, bytes);
            CHECK(block.offset == blocks[i].offset && block.size == blocks[i].size);
            blocks[i] = block;
        }
        // Other sizes that the rounding makes one are one to the lists, too.
        allocator.free(blocks[6].node);
        allocator.free(blocks[10].node);
        CHECK(must(allocator, bytes - 1).offset == blocks[10].offset);
        CHECK(must(allocator, bytes).offset == blocks[6].offset);
        allocator.check();
    }
}

TEST(a_rest_nobody_has_used_goes_behind_the_blocks_that_came_back) {
    BlockAllocator allocator(1 * kMiB, kPage);
    const Block used = must(allocator, 1 * kKiB);
    must(allocator, 64);
    const Block large = must(allocator, 6 * kKiB);
    must(allocator, 64);
    allocator.free(used.node);
    allocator.free(large.node);
    CHECK(must(allocator, 5 * kKiB).offset == large.offset);  // leaves 1 KiB
    CHECK(must(allocator, 1 * kKiB).offset == used.offset);
    CHECK(must(allocator, 1 * kKiB).offset == large.offset + 5 * kKiB);
}

TEST(the_whole_capacity_can_be_one_block) {
    for (const std::uint64_t capacity :
         {4 * kKiB, 68 * kKiB, 1000 * kKiB, 257 * kMiB + 4 * kKiB, std::uint64_t{BlockAllocator::kMaxCapacity},
          BlockAllocator::kMaxCapacity - 4096}) {
        BlockAllocator allocator(capacity, kPage);
        CHECK(!allocator.allocate(capacity + 1));
        CHECK(!allocator.allocate(~std::uint64_t{0}));  // rounding this up overflows
        for (int i = 0; i < 3; ++i) {
            const Block block = must(allocator, capacity - (i == 0 ? 0 : 1));
            CHECK(block.offset == 0 && block.size == capacity);
            CHECK(allocator.free_bytes() == 0 && allocator.largest_free() == 0);
            CHECK(holes_of(allocator).empty());
            CHECK(!allocator.allocate(1));
            allocator.check();
            allocator.free(block.node);
            allocator.check();
        }
    }
}

TEST(nothing_fits_into_nothing) {
    BlockAllocator allocator(0, kPage);
    CHECK(!allocator.allocate(1));
    CHECK(!allocator.allocate(~std::uint64_t{0}));
    CHECK(allocator.empty() && allocator.free_bytes() == 0 && allocator.largest_free() == 0);
    allocator.check();
}

TEST(large_blocks_begin_on_a_page_and_what_lies_before_them_stays_free) {
    BlockAllocator allocator(1 * kMiB, kPage);
    const Block small = must(allocator, 100);
    const Block large = must(allocator, 64 * kKiB);
    CHECK(small.offset == 0 && small.size == 128);
    CHECK(large.offset == 4096 && large.size == 64 * kKiB);
    CHECK((holes_of(allocator) == Holes{{68 * kKiB, 956 * kKiB}, {128, 4096 - 128}}));
    CHECK(must(allocator, 64).offset == 128);
    CHECK(must(allocator, 64 * kKiB - 1).offset == 68 * kKiB);
    const Block odd = must(allocator, 64 * kKiB + 1);
    CHECK(odd.offset == 132 * kKiB && odd.size == 68 * kKiB);
    allocator.check();
}

TEST(an_aligned_hole_of_the_exact_size_is_found_behind_others_that_are_not_aligned) {
    for (const int n_unaligned : {0, 1, 7, 8, 50}) {
        BlockAllocator allocator(64 * kMiB, kPage);
        std::vector<Block> unaligned;
        const Block hole = must(allocator, 128 * kKiB);
        must(allocator, 64);
        for (int i = 0; i < n_unaligned; ++i) {
            // Neighbours that begin beside a page boundary; together as large as the hole.
            for (int part = 0; part < 4; ++part) unaligned.push_back(must(allocator, 32 * kKiB));
            CHECK(unaligned.back().offset % 4096 != 0);
            must(allocator, 64);
        }
        if (n_unaligned >= 8) {  // and nothing else left: it is worth looking through all of them
            while (allocator.allocate(16 * kMiB)) {
            }
            while (allocator.allocate(64 * kKiB)) {
            }
        }
        allocator.free(hole.node);
        for (const Block& block : unaligned) allocator.free(block.node);
        allocator.check();
        CHECK(must(allocator, 128 * kKiB).offset == hole.offset);
        allocator.check();
    }
}

TEST(full_and_empty_again) {
    for (std::uint32_t seed = 0; seed < 4; ++seed) {
        std::mt19937 random(seed);
        BlockAllocator allocator(8 * kMiB, kPage);
        for (int round = 0; round < 3; ++round) {
            std::vector<Block> blocks;
            for (std::uint64_t bytes = kMiB; bytes >= 64; bytes /= 2) {
                while (const auto block = allocator.allocate(round == 1 ? bytes - bytes / 5 : bytes)) {
                    blocks.push_back(*block);
                    if (blocks.size() % 3 == 0) break;
                }
            }
            while (const auto block = allocator.allocate(1)) blocks.push_back(*block);
            CHECK(allocator.free_bytes() == 0 && allocator.largest_free() == 0);
            allocator.check();
            std::shuffle(blocks.begin(), blocks.end(), random);
            for (const Block& block : blocks) allocator.free(block.node);
            allocator.check();
            CHECK(allocator.empty() && (holes_of(allocator) == Holes{{0, 8 * kMiB}}));
        }
    }
}

TEST(in_a_steady_state_it_asks_nothing_of_the_heap) {
    std::mt19937 random(5);
    BlockAllocator allocator(64 * kMiB, kPage);
    std::vector<Block> blocks(200);
    const auto churn = [&](int steps) {
        for (int step = 0; step < steps; ++step) {
            Block& block = blocks[random() % blocks.size()];
            if (block.size != 0) allocator.free(block.node);
            block = must(allocator, 1 + random() % (100 * kKiB));
        }
    };
    churn(20'000);
    const std::uint64_t before = n_new;
    churn(20'000);
    CHECK(n_new == before);
}

TEST(false_ends_the_walk_over_the_free_blocks) {
    BlockAllocator allocator(1 * kMiB, kPage);
    std::vector<Block> blocks;
    for (int i = 0; i < 10; ++i) blocks.push_back(must(allocator, 1 * kKiB));
    for (std::size_t i = 0; i < 10; i += 2) allocator.free(blocks[i].node);
    std::vector<std::uint64_t> seen;
    allocator.for_each_free_from_top([&](std::uint64_t offset, std::uint64_t) {
        seen.push_back(offset);
        return seen.size() < 3;
    });
    CHECK((seen == std::vector<std::uint64_t>{10 * kKiB, 8 * kKiB, 6 * kKiB}));
}
