// Touching pages changes no byte, whoever writes them meanwhile; all of it is told, and what `progress` throws ends it.
#include "prefault.hpp"

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "check.hpp"
#include "platform/shared_file.hpp"

namespace {

using Byte = std::atomic<unsigned char>;

TEST(pages_are_touched_while_another_thread_counts_in_them) {
    const std::uint64_t page = ringcast::platform::page_bytes();
    constexpr std::uint64_t kPages = 16;
    constexpr int kRounds = 5'000;
    std::vector<std::byte> memory(kPages * page);
    const auto byte = [&](std::uint64_t i) -> Byte& { return reinterpret_cast<Byte&>(memory[i * page]); };
    std::atomic<bool> counted{false};
    std::thread counter([&] {
        for (int round = 0; round < kRounds; ++round)
            for (std::uint64_t i = 0; i < kPages; ++i) byte(i).fetch_add(1, std::memory_order_relaxed);
        counted.store(true, std::memory_order_relaxed);
    });
    while (!counted.load(std::memory_order_relaxed)) ringcast::platform::touch_pages(memory.data(), memory.size());
    counter.join();
    for (std::uint64_t i = 0; i < kPages; ++i) CHECK(byte(i).load(std::memory_order_relaxed) == kRounds % 256);
}

TEST(all_of_it_is_told) {
    std::vector<std::byte> memory(std::size_t{130} << 20);
    std::vector<std::uint64_t> told;
    ringcast::prefault(memory.data(), memory.size(), [&](std::uint64_t done, std::uint64_t total) {
        CHECK(total == memory.size());
        CHECK(told.empty() ? done == 0 : done > told.back());
        told.push_back(done);
    });
    CHECK(told.back() == memory.size());
}

TEST(what_progress_throws_comes_out_once_the_threads_have_ended) {
    std::vector<std::byte> memory(std::size_t{130} << 20);
    struct Enough {};
    bool thrown = false;
    try {
        ringcast::prefault(memory.data(), memory.size(), [](std::uint64_t, std::uint64_t) { throw Enough{}; });
    } catch (const Enough&) {
        thrown = true;
    }
    CHECK(thrown);
}

}  // namespace
