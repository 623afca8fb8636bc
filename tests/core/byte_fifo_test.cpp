// ByteFifo against a naive model: whatever the order of operations, blocks never overlap.
#include "byte_fifo.hpp"

#include <deque>
#include <random>

#include "check.hpp"

using ringcast::ByteFifo;
using ringcast::round_up;

namespace {

struct Block {
    std::uint64_t begin;
    std::uint64_t end;
};

// May a block of `size` bytes go anywhere, by the rule that blocks follow each other and wrap at most once?
bool has_room(const std::deque<Block>& live, std::uint64_t capacity, std::uint64_t size) {
    if (live.empty()) return size <= capacity;
    const std::uint64_t oldest = live.front().begin;
    const std::uint64_t end = live.back().end;
    const bool wrapped = live.back().begin < oldest;
    return wrapped ? end + size <= oldest : end + size <= capacity || size <= oldest;
}

void run(std::uint32_t seed, std::uint64_t capacity, std::uint64_t largest) {
    std::mt19937 random(seed);
    const auto below = [&](std::uint64_t limit) {
        return std::uniform_int_distribution<std::uint64_t>(0, limit - 1)(random);
    };
    ByteFifo fifo(capacity);
    std::deque<Block> live;
    std::deque<std::uint64_t> positions;
    std::uint64_t position = 0;
    for (int step = 0; step < 3000; ++step) {
        if (below(100) < 55) {
            const std::uint64_t bytes = 1 + below(below(4) == 0 ? largest : largest / 8 + 1);
            const std::uint64_t size = round_up(bytes, ByteFifo::kBlockUnit);
            const auto place = fifo.place(bytes);
            CHECK(place.has_value() == has_room(live, capacity, size));
            if (!place) continue;
            if (live.empty()) CHECK(*place == 0);
            CHECK(*place % ByteFifo::kBlockUnit == 0);
            CHECK(*place + bytes <= capacity);
            for (const Block& block : live) CHECK(*place + size <= block.begin || *place >= block.end);
            fifo.take(*place, bytes, position);
            live.push_back({*place, *place + size});
            positions.push_back(position);
            position += 1 + below(3);  // messages in between lie inline
        } else {
            const std::uint64_t gate =
                positions.empty() ? position : positions.front() + below(2 * positions.size() + 1);
            fifo.release_before(gate);
            while (!positions.empty() && positions.front() < gate) {
                positions.pop_front();
                live.pop_front();
            }
        }
        CHECK(fifo.empty() == live.empty());
        if (!positions.empty()) CHECK(fifo.oldest_position() == positions.front());
    }
}

}  // namespace

TEST(blocks_never_overlap_whatever_the_order_of_operations) {
    for (std::uint32_t seed = 0; seed < 20u * check::kScale; ++seed) {
        run(seed, 4096, 1024);
        run(seed, 4096, 4096);
        run(seed, 1 << 20, 300'000);
        run(seed, 64, 64);
    }
}

TEST(with_nothing_live_it_starts_over_at_zero) {
    ByteFifo fifo(10'000);
    for (std::uint64_t position = 0; position < 100; ++position) {
        const auto place = fifo.place(9000);
        CHECK(place == std::uint64_t{0});
        fifo.take(*place, 9000, position);
        fifo.release_before(position + 1);
        CHECK(fifo.empty());
    }
}

TEST(what_does_not_fit_gets_nothing_until_older_blocks_come_back) {
    ByteFifo fifo(1024);
    CHECK(!fifo.place(1025));
    CHECK(fifo.place(1024) == std::uint64_t{0});
    fifo.take(0, 512, 7);
    fifo.take(512, 512, 9);
    CHECK(!fifo.place(1));
    fifo.release_before(7);
    CHECK(!fifo.place(1));
    CHECK(fifo.oldest_position() == 7);
    fifo.release_before(8);
    CHECK(fifo.place(512) == std::uint64_t{0});
    CHECK(!fifo.place(513));
    fifo.take(0, 512, 10);
    CHECK(!fifo.place(1));
    fifo.release_before(11);
    CHECK(fifo.empty());
}

TEST(a_lagging_reader_makes_it_spread_and_a_quick_one_keeps_it_small) {
    ByteFifo fifo(1 << 20);
    std::uint64_t furthest = 0;
    for (std::uint64_t position = 0; position < 1000; ++position) {
        const auto place = fifo.place(1000);
        CHECK(place.has_value());
        fifo.take(*place, 1000, position);
        furthest = std::max(furthest, *place + 1024);
        if (position >= 2) fifo.release_before(position - 1);  // never quite empty
    }
    CHECK(furthest <= 8 * 1024);
}
