// The floor under waking a sleeper: a futex shared by two pinned processes, both idle for a while before each wake.
//
// One way: from the waker's time stamp, taken just before it changes the word, to the sleeper's, taken as soon as its
// FUTEX_WAIT has returned. CLOCK_MONOTONIC is the same in all processes of a machine.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>

#include "common.hpp"

namespace floor_program {

inline long futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value) {
    // No FUTEX_PRIVATE_FLAG: the word is shared across processes.
    return syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), operation, value, nullptr, nullptr, 0);
}

// One-way latencies in ns, in the order they happened.
inline std::vector<double> futex_wakes(int cpu_waker, int cpu_sleeper, std::uint64_t count, std::uint64_t idle_ns) {
    constexpr std::uint64_t kMax = 4096;
    constexpr std::uint64_t kWarmUp = 3;
    struct Memory {
        alignas(kLinePair) std::atomic<std::uint32_t> word{0};
        alignas(kLinePair) std::atomic<std::uint64_t> sent[kMax + kWarmUp]{};
        alignas(kLinePair) std::atomic<std::uint64_t> woken[kMax + kWarmUp]{};
    };
    const std::uint64_t total = std::min(count, kMax) + kWarmUp;
    Shared<Memory> memory;

    Child sleeper([&] {
        pin_to(cpu_sleeper);
        for (std::uint32_t i = 0; i < total; ++i) {
            // acquire: pairs with the release store of `word` below.
            while (memory->word.load(std::memory_order_acquire) == i) {
                futex(memory->word, FUTEX_WAIT, i);
            }
            memory->woken[i].store(now_ns(), std::memory_order_relaxed);
        }
    });

    pin_to(cpu_waker);
    for (std::uint32_t i = 0; i < total; ++i) {
        sleep_ns(idle_ns);
        memory->sent[i].store(now_ns(), std::memory_order_relaxed);
        memory->word.store(i + 1, std::memory_order_release);
        futex(memory->word, FUTEX_WAKE, 1);
    }
    sleeper.join();  // and with it everything in `woken` is visible

    std::vector<double> one_way;
    for (std::uint64_t i = kWarmUp; i < total; ++i) {
        one_way.push_back(static_cast<double>(memory->woken[i].load(std::memory_order_relaxed)) -
                          static_cast<double>(memory->sent[i].load(std::memory_order_relaxed)));
    }
    return one_way;
}

}  // namespace floor_program
