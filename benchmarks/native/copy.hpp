// The floor under moving large payloads: what one memcpy does, by size.
//
// copy_rates: the plain figure. Both buffers are private and touched before, so no page fault is timed; the same two are
// copied again and again, so sizes that fit a cache show the cache's rate.
//
// copy_between: the floor of a transport. Shared memory that other processes map, in pages of 4 KiB, is where any of them
// has to put a payload, and it takes turns: a few sources, as many as the transport is given, are copied to a few
// destinations, as many as the transport uses at a time. All are touched before. The figure is bytes by time, as the
// transport's is, and not a median of single copies.
#pragma once

#include <memory>

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

// Memory in a memfd, mapped shared, each page written once. Gone with its last mapping.
class SharedPages {
public:
    explicit SharedPages(std::size_t bytes) : bytes_(bytes) {
        const int file = memfd_create("ringcast_floor", MFD_CLOEXEC);
        if (file < 0 || ftruncate(file, static_cast<off_t>(bytes)) != 0) {
            throw std::runtime_error(std::string("cannot make a memfd: ") + std::strerror(errno));
        }
        void* where = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        if (where == MAP_FAILED) {
            throw std::runtime_error(std::string("cannot map a memfd: ") + std::strerror(errno));
        }
        start_ = static_cast<char*>(where);
        std::memset(start_, 'b', bytes);
    }
    ~SharedPages() { munmap(start_, bytes_); }
    SharedPages(const SharedPages&) = delete;
    SharedPages& operator=(const SharedPages&) = delete;
    char* start() const { return start_; }

private:
    std::size_t bytes_;
    char* start_ = nullptr;
};

// Private memory as NumPy has it, written once: huge pages are asked for from 4 MiB on.
class PrivatePages {
public:
    explicit PrivatePages(std::size_t bytes) : bytes_(bytes) {
        void* where = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (where == MAP_FAILED) {
            throw std::runtime_error(std::string("cannot map memory: ") + std::strerror(errno));
        }
        start_ = static_cast<char*>(where);
        if (bytes >= std::size_t{4} << 20) {
            madvise(start_, bytes, MADV_HUGEPAGE);
        }
        std::memset(start_, 'a', bytes);
    }
    ~PrivatePages() { munmap(start_, bytes_); }
    PrivatePages(const PrivatePages&) = delete;
    PrivatePages& operator=(const PrivatePages&) = delete;
    char* start() const { return start_; }

private:
    std::size_t bytes_;
    char* start_ = nullptr;
};

// 1e9 bytes copied a second, from `n_sources` in turn to `n_destinations` in turn.
inline double copy_between(int cpu, std::size_t bytes, std::size_t n_sources, std::size_t n_destinations,
                           double seconds) {
    if (bytes == 0 || n_sources == 0 || n_destinations == 0) {
        throw std::runtime_error("nothing to copy");
    }
    pin_to(cpu);
    std::vector<std::unique_ptr<PrivatePages>> sources;
    std::vector<std::unique_ptr<SharedPages>> destinations;
    for (std::size_t i = 0; i < n_sources; ++i) {
        sources.push_back(std::make_unique<PrivatePages>(bytes));
    }
    for (std::size_t i = 0; i < n_destinations; ++i) {
        destinations.push_back(std::make_unique<SharedPages>(bytes));
    }
    const std::size_t round = n_sources * n_destinations;  // after this many copies each pair has had its turns
    const auto copy_round = [&] {
        for (std::size_t i = 0; i < round; ++i) {
            char* to = destinations[i % n_destinations]->start();
            const char* from = sources[i % n_sources]->start();
            std::memcpy(to, from, bytes);
            asm volatile("" : : "r"(to), "r"(from) : "memory");
        }
    };
    copy_round();
    std::size_t copies = 0;
    const std::uint64_t begin = now_ns();
    const std::uint64_t end = begin + static_cast<std::uint64_t>(seconds * 1e9);
    std::uint64_t now = begin;
    while (now < end) {
        copy_round();
        copies += round;
        now = now_ns();
    }
    return static_cast<double>(bytes) * static_cast<double>(copies) /
           static_cast<double>(std::max(now - begin, std::uint64_t{1}));
}

}  // namespace floor_program
