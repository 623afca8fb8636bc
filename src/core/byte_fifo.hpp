// Where in the data part the next message's bytes go: a FIFO ring of variable-sized blocks.
//
// Book-keeping is the writer's private memory: no reader can corrupt it. Blocks are placed in publishing order and come
// back in that order, when every reader has passed their message. With nothing live it starts over at offset 0, so a
// queue whose readers keep up uses the same few warm pages for ever; it spreads over more of its address space only
// when readers lag.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

#include "geometry.hpp"

namespace ringcast {

class ByteFifo {
public:
    static constexpr std::uint64_t kBlockUnit = 64;

    explicit ByteFifo(std::uint64_t capacity) : capacity_(capacity) {}

    // An offset for `bytes` bytes, or nothing if they fit only after older blocks have come back.
    std::optional<std::uint64_t> place(std::uint64_t bytes) const noexcept {
        const std::uint64_t size = round_up(bytes, kBlockUnit);
        if (live_.empty()) return size <= capacity_ ? std::optional<std::uint64_t>(0) : std::nullopt;
        const std::uint64_t oldest = live_.front().begin;
        const std::uint64_t end = live_.back().end;
        if (end > oldest) {  // not wrapped: before the oldest if it is warm and fits, else behind the newest
            if (end + size <= touched_) return end;
            if (size <= oldest) return 0;
            if (end + size <= capacity_) return end;
            return std::nullopt;
        }
        return end + size <= oldest ? std::optional<std::uint64_t>(end) : std::nullopt;
    }

    // The bytes at `offset`, from `place`, belong to message `position` from now on.
    void take(std::uint64_t offset, std::uint64_t bytes, std::uint64_t position) {
        const std::uint64_t end = offset + round_up(bytes, kBlockUnit);
        live_.push_back(Block{position, offset, end});
        if (end > touched_) touched_ = end;
    }

    // Every reader has read the messages before `gate`.
    void release_before(std::uint64_t gate) noexcept {
        while (!live_.empty() && live_.front().position < gate) live_.pop_front();
    }

    bool empty() const noexcept { return live_.empty(); }
    // The message whose reading by all gives the next block back. Only if not empty.
    std::uint64_t oldest_position() const noexcept { return live_.front().position; }

private:
    struct Block {
        std::uint64_t position;
        std::uint64_t begin;
        std::uint64_t end;
    };
    std::uint64_t capacity_;
    std::uint64_t touched_ = 0;  // how far it has ever spread
    std::deque<Block> live_;
};

}  // namespace ringcast
