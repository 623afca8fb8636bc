// A ring whose chunks say by flags what state they are in, and nothing says in which order those become visible.
//
// For contrast with src/core/ring.hpp, over the same platform policy: docs/freeze.md says what can go wrong, and
// model/freeze shows it. A chunk has one `written` flag and a `read` flag for each reader; the writer may fill a
// chunk that is not written or that all have read, a reader may read one that is written and that it has not read. To
// refill a chunk the writer resets the flags one by one. Every access is relaxed, and a policy whose `atomic` is a plain
// object makes it a ring of plain bytes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace ringcast::model {

template <class P, std::size_t kReaders, std::size_t kBytes>
struct FreezeChunk {
    using Flag = typename P::template atomic<std::uint8_t>;

    Flag written{0};
    Flag read[kReaders]{};
    alignas(8) std::byte bytes[kBytes]{};

    bool writable() const noexcept {
        if (written.load(std::memory_order_relaxed) == 0) return true;
        for (const Flag& flag : read)
            if (flag.load(std::memory_order_relaxed) == 0) return false;
        return true;
    }
    // Only if writable.
    void write(const std::byte* from) noexcept {
        written.store(0, std::memory_order_relaxed);
        P::copy(bytes, from, kBytes);
        for (Flag& flag : read) flag.store(0, std::memory_order_relaxed);
        written.store(1, std::memory_order_relaxed);
    }

    bool readable(std::size_t reader) const noexcept {
        return written.load(std::memory_order_relaxed) == 1 && read[reader].load(std::memory_order_relaxed) == 0;
    }
    // Only if readable.
    void take(std::size_t reader, std::byte* to) noexcept {
        P::copy(to, bytes, kBytes);
        read[reader].store(1, std::memory_order_relaxed);
    }
};

}  // namespace ringcast::model
