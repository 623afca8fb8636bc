// PageMap against a naive model, a bool for each page: the same runs and the same counts, whatever is set and cleared.
#include "page_map.hpp"

#include <cstddef>
#include <random>
#include <utility>
#include <vector>

#include "check.hpp"

using ringcast::PageMap;

namespace {

using Runs = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

Runs runs_of(const PageMap& map, bool present, std::uint64_t begin, std::uint64_t end) {
    Runs runs;
    const auto collect = [&](std::uint64_t from, std::uint64_t to) {
        runs.emplace_back(from, to);
        return true;
    };
    if (present) {
        map.for_each_present(begin, end, collect);
    } else {
        map.for_each_missing(begin, end, collect);
    }
    return runs;
}

Runs naive_runs(const std::vector<bool>& model, std::uint64_t page, bool present, std::uint64_t begin,
                std::uint64_t end) {
    Runs runs;
    if (begin >= end) return runs;
    for (std::uint64_t at = begin / page; at * page < end; ++at) {
        if (model[at] != present) continue;
        if (!runs.empty() && runs.back().second == at * page) {
            runs.back().second += page;
        } else {
            runs.emplace_back(at * page, (at + 1) * page);
        }
    }
    return runs;
}

std::uint64_t bytes_of(const Runs& runs) {
    std::uint64_t bytes = 0;
    for (const auto& [begin, end] : runs) bytes += end - begin;
    return bytes;
}

void run(std::uint32_t seed, std::uint64_t pages, std::uint64_t page) {
    std::mt19937 random(seed);
    const auto below = [&](std::uint64_t limit) {
        return std::uniform_int_distribution<std::uint64_t>(0, limit - 1)(random);
    };
    PageMap map(pages * page, page);
    std::vector<bool> model(pages);
    for (int step = 0; step < 300; ++step) {
        const std::uint64_t first = below(pages + 1);
        const std::uint64_t limit = first + below((below(3) == 0 ? pages - first : std::min(pages - first, page)) + 1);
        const bool present = below(2) == 0;
        if (present) {
            map.set(first * page, limit * page);
        } else {
            map.clear(first * page, limit * page);
        }
        for (std::uint64_t at = first; at < limit; ++at) model[at] = present;

        CHECK(map.count() == bytes_of(naive_runs(model, page, true, 0, pages * page)));
        const std::uint64_t begin = below(pages * page + 1);
        const std::uint64_t end = below(8) == 0 ? begin : begin + below(pages * page - begin + 1);
        CHECK(runs_of(map, true, begin, end) == naive_runs(model, page, true, begin, end));
        CHECK(runs_of(map, false, begin, end) == naive_runs(model, page, false, begin, end));
        CHECK(map.missing(begin, end) == bytes_of(naive_runs(model, page, false, begin, end)));
    }
}

}  // namespace

TEST(the_same_runs_and_counts_as_a_bool_for_each_page) {
    for (std::uint32_t seed = 0; seed < 5u * check::kScale; ++seed) {
        for (const std::uint64_t pages : {1u, 2u, 63u, 64u, 65u, 128u, 1000u}) {
            run(seed, pages, 4096);
            run(seed, pages, 16384);
        }
    }
}

TEST(a_range_touches_the_pages_of_its_first_and_last_byte) {
    PageMap map(8 * 4096, 4096);
    CHECK(map.missing(4095, 4097) == 2 * 4096);
    CHECK(map.missing(4096, 4097) == 4096);
    CHECK(map.missing(100, 100) == 0);
    map.set(4096, 2 * 4096);
    CHECK(map.missing(4095, 4097) == 4096);
    CHECK((runs_of(map, false, 4095, 3 * 4096 - 1) == Runs{{0, 4096}, {2 * 4096, 3 * 4096}}));
    CHECK((runs_of(map, true, 5000, 5001) == Runs{{4096, 2 * 4096}}));
}

TEST(what_has_memory_is_counted_once) {
    PageMap map(1 << 20, 4096);
    map.set(0, 1 << 20);
    map.set(4096, 1 << 19);
    CHECK(map.count() == 1 << 20);
    map.clear(8192, 1 << 18);
    map.clear(8192, 1 << 18);
    CHECK(map.count() == (1 << 20) - (1 << 18) + 8192);
    CHECK(map.missing(0, 1 << 20) == (1 << 20) - map.count());
    map.clear(0, 1 << 20);
    CHECK(map.count() == 0);
}

TEST(false_ends_a_walk_and_a_run_may_change_while_it_is_visited) {
    PageMap map(200 * 4096, 4096);
    for (std::uint64_t at = 0; at < 200; at += 10) map.set(at * 4096, (at + 1) * 4096);
    int calls = 0;
    map.for_each_missing(0, 200 * 4096, [&](std::uint64_t begin, std::uint64_t end) {
        CHECK(end - begin == 9 * 4096);
        map.set(begin, end);
        return ++calls < 3;
    });
    CHECK(calls == 3);
    CHECK((runs_of(map, true, 0, 32 * 4096) == Runs{{0, 31 * 4096}}));
    calls = 0;
    map.for_each_present(0, 200 * 4096, [&](std::uint64_t begin, std::uint64_t end) {
        map.clear(begin, end);
        ++calls;
        return true;
    });
    CHECK(calls == 17);
    CHECK(map.count() == 0);
}

TEST(no_bytes_have_no_pages) {
    PageMap map(0, 4096);
    CHECK(map.count() == 0);
    CHECK(map.missing(0, 0) == 0);
    CHECK(runs_of(map, false, 0, 0).empty());
    map.set(0, 0);
    CHECK(map.count() == 0);
}
