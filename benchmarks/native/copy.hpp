// The floor under moving large payloads: what one memcpy does, by size.
//
// Both buffers are touched before, so no page fault is timed; the same two are copied again and again, so sizes that
// fit a cache show the cache's rate. That is what a queue that reuses its memory meets as well.
#pragma once

#include "common.hpp"

namespace floor_program {

struct CopyRate {
    std::size_t bytes;
    double gigabytes_per_s;  // 1e9 bytes copied a second, median over repetitions
};

inline std::vector<CopyRate> copy_rates(int cpu, double seconds_per_size) {
    pin_to(cpu);
    constexpr std::size_t kSmallest = std::size_t{64} << 10;
    constexpr std::size_t kLargest = std::size_t{64} << 20;
    std::vector<char> from(kLargest, 'a');
    std::vector<char> to(kLargest, 'b');
    std::vector<CopyRate> rates;
    for (std::size_t bytes = kSmallest; bytes <= kLargest; bytes *= 4) {
        const std::size_t copies_per_sample = std::max<std::size_t>(1, (std::size_t{1} << 20) / bytes);
        std::vector<double> samples;
        const std::uint64_t end = now_ns() + static_cast<std::uint64_t>(seconds_per_size * 1e9);
        while (samples.size() < 5 || now_ns() < end) {
            const std::uint64_t begin = now_ns();
            for (std::size_t i = 0; i < copies_per_sample; ++i) {
                std::memcpy(to.data(), from.data(), bytes);
                // The compiler must believe that the bytes are looked at and may have changed.
                asm volatile("" : : "r"(to.data()), "r"(from.data()) : "memory");
            }
            samples.push_back(static_cast<double>(bytes * copies_per_sample) / static_cast<double>(now_ns() - begin));
        }
        rates.push_back({bytes, percentile(samples, 0.5)});
    }
    return rates;
}

}  // namespace floor_program
