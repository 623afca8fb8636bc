// The floor under one-way latency: a cache line handed from one pinned process to another and back.
//
// Each side spins on a line of its own that only the other writes. Trips are timed in blocks, so that the clock's own
// cost (tens of nanoseconds a call) hardly counts as latency; the median over blocks ignores those in which a CPU was
// taken away. The Python workload of the same name has blocks of the same size.
#pragma once

#include "common.hpp"

namespace floor_program {

struct PingPongResult {
    double one_way_p50_ns;
    double one_way_p99_ns;
};

inline PingPongResult ping_pong(int cpu_a, int cpu_b, std::uint64_t blocks) {
    constexpr std::uint64_t kTripsPerBlock = 16;
    struct Lines {
        alignas(kLinePair) std::atomic<std::uint64_t> ping{0};
        alignas(kLinePair) std::atomic<std::uint64_t> pong{0};
    };
    Shared<Lines> lines;
    const std::uint64_t warm_up_blocks = blocks / 10 + 1;
    const std::uint64_t trips = (blocks + warm_up_blocks) * kTripsPerBlock;

    Child echo([&] {
        pin_to(cpu_b);
        for (std::uint64_t i = 1; i <= trips; ++i) {
            // acquire: pairs with the release store of `ping` below; release: pairs with the acquire load of `pong`.
            spin_until([&] { return lines->ping.load(std::memory_order_acquire) == i; });
            lines->pong.store(i, std::memory_order_release);
        }
    });

    pin_to(cpu_a);
    std::vector<double> one_way;
    one_way.reserve(blocks);
    std::uint64_t trip = 0;
    for (std::uint64_t block = 0; block < warm_up_blocks + blocks; ++block) {
        const std::uint64_t begin = now_ns();
        for (std::uint64_t i = 0; i < kTripsPerBlock; ++i) {
            ++trip;
            lines->ping.store(trip, std::memory_order_release);
            spin_until([&] { return lines->pong.load(std::memory_order_acquire) == trip; });
        }
        if (block >= warm_up_blocks) {
            one_way.push_back(static_cast<double>(now_ns() - begin) / static_cast<double>(2 * kTripsPerBlock));
        }
    }
    echo.join();
    return {percentile(one_way, 0.50), percentile(one_way, 0.99)};
}

}  // namespace floor_program
