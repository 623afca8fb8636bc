// The sizes of a queue: what the user asks for, checked, and the offsets that follow from it.
// One function computes them, for the creator and for each attacher, who compares with what the segment says.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "errors.hpp"
#include "layout.hpp"

namespace ringcast {

inline constexpr std::uint32_t kMaxReaders = 4096;
inline constexpr std::uint32_t kMaxChunks = 1u << 24;
inline constexpr std::uint64_t kMaxChunkBytes = std::uint64_t{1} << 40;
inline constexpr std::uint64_t kMaxTotalBytes = std::uint64_t{1} << 44;
inline constexpr std::uint64_t kInlineBytes =
    9 * kLinePair - sizeof(NativeSlot);  // 1,120: about 1 KiB, odd in line pairs
inline constexpr std::uint64_t kDefaultDataBytes = std::uint64_t{256} << 20;

struct Geometry {
    std::uint32_t n_reader = 0;
    std::uint32_t n_local = 0;
    std::uint32_t max_chunks = 0;
    std::uint64_t max_chunk_bytes = 0;
    std::uint64_t data_bytes = 0;
    // derived
    std::uint32_t n_seats = 0;
    std::uint32_t inline_bytes = 0;
    std::uint32_t slot_bytes = 0;
    std::uint64_t ranks_offset = 0;
    std::uint64_t slots_offset = 0;
    std::uint64_t control_bytes = 0;  // all that is reserved at creation; the data part starts here
    std::uint64_t total_bytes = 0;
};

inline std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) { return (value + unit - 1) / unit * unit; }

inline void check_range(const char* what, std::uint64_t value, std::uint64_t least, std::uint64_t most) {
    if (value >= least && value <= most) return;
    throw Error(ErrorCode::invalid_argument, std::string(what) + " must be from " + std::to_string(least) + " to " +
                                                 std::to_string(most) + ", not " + std::to_string(value));
}

// `max_bytes` is the budget for all the memory the queue may ever take; 0 chooses a default.
inline Geometry plan_geometry(std::uint32_t n_reader, std::uint32_t n_local, std::uint64_t max_chunk_bytes,
                              std::uint32_t max_chunks, std::uint64_t max_bytes, std::uint64_t page) {
    check_range("n_reader", n_reader, 1, kMaxReaders);
    check_range("n_local_reader", n_local, 0, n_reader);
    check_range("max_chunk_bytes", max_chunk_bytes, 1, kMaxChunkBytes);
    check_range("max_chunks", max_chunks, 1, kMaxChunks);
    check_range("max_bytes", max_bytes, 0, kMaxTotalBytes);

    Geometry plan;
    plan.n_reader = n_reader;
    plan.n_local = n_local;
    plan.max_chunks = max_chunks;
    plan.max_chunk_bytes = max_chunk_bytes;
    plan.n_seats = n_reader + kSpareSeats;
    plan.inline_bytes = static_cast<std::uint32_t>(
        std::min(round_up(max_chunk_bytes + sizeof(NativeSlot), kLinePair) - sizeof(NativeSlot), kInlineBytes));
    plan.slot_bytes = plan.inline_bytes + static_cast<std::uint32_t>(sizeof(NativeSlot));
    plan.ranks_offset = kSeatsOffset + std::uint64_t{plan.n_seats} * sizeof(NativeSeat);
    plan.slots_offset = round_up(plan.ranks_offset + std::uint64_t{n_local} * sizeof(std::uint32_t), kLinePair);
    plan.control_bytes = round_up(plan.slots_offset + std::uint64_t{max_chunks} * plan.slot_bytes, page);

    const std::uint64_t largest_block = max_chunk_bytes > plan.inline_bytes ? round_up(max_chunk_bytes, page) : 0;
    if (largest_block != 0) {
        const std::uint64_t usual = std::max(kDefaultDataBytes, 2 * largest_block);
        const std::uint64_t by_default = max_chunks < usual / largest_block ? max_chunks * largest_block : usual;
        const std::uint64_t by_budget =
            max_bytes > plan.control_bytes ? (max_bytes - plan.control_bytes) / page * page : 0;
        const std::uint64_t wanted = max_bytes == 0 ? by_default : by_budget;
        if (wanted < largest_block)
            throw Error(ErrorCode::invalid_argument,
                        "max_bytes is " + std::to_string(max_bytes) +
                            ", but one message of max_chunk_bytes=" + std::to_string(max_chunk_bytes) + " needs " +
                            std::to_string(plan.control_bytes + largest_block) +
                            " with the queue's own memory: raise max_bytes or lower max_chunk_bytes");
        plan.data_bytes = wanted;
    } else if (max_bytes != 0 && max_bytes < plan.control_bytes) {
        throw Error(ErrorCode::invalid_argument, "max_bytes is " + std::to_string(max_bytes) +
                                                     ", but the ring alone needs " +
                                                     std::to_string(plan.control_bytes));
    }
    plan.total_bytes = plan.control_bytes + plan.data_bytes;
    check_range("the size of the queue", plan.total_bytes, 1, kMaxTotalBytes);
    return plan;
}

}  // namespace ringcast
