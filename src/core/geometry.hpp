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
inline constexpr std::uint64_t kDefaultChunkBytes = std::uint64_t{24} << 20;
inline constexpr std::uint64_t kDefaultDataBudget = std::uint64_t{256} << 20;
inline constexpr std::uint64_t kAddressFactor = 4;  // address space for the budget: fragments need not be waited for
inline constexpr std::uint32_t kMaxLeases = (1u << 24) + 1024;

struct Geometry {
    std::uint32_t n_reader = 0;
    std::uint32_t n_local = 0;
    std::uint32_t max_chunks = 0;
    std::uint64_t max_chunk_bytes = 0;
    std::uint64_t data_budget = 0;
    std::uint32_t max_leases = 0;
    // derived
    std::uint32_t n_seats = 0;
    std::uint32_t inline_bytes = 0;
    std::uint32_t slot_bytes = 0;
    std::uint64_t ranks_offset = 0;
    std::uint64_t board_offset = 0;
    std::uint64_t slots_offset = 0;
    std::uint64_t marks_offset = 0;
    std::uint32_t mark_column_bytes = 0;
    std::uint64_t data_bytes = 0;
    std::uint64_t control_bytes = 0;  // all that is reserved at creation; the data part starts here
    std::uint64_t total_bytes = 0;

    std::uint32_t n_remote() const noexcept { return n_reader - n_local; }
};

inline std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) { return (value + unit - 1) / unit * unit; }

inline void check_range(const char* what, std::uint64_t value, std::uint64_t least, std::uint64_t most) {
    if (value >= least && value <= most) return;
    throw Error(ErrorCode::invalid_argument, std::string(what) + " must be from " + std::to_string(least) + " to " +
                                                 std::to_string(most) + ", not " + std::to_string(value));
}

// The offsets and sizes that follow from the others: computed by the creator and by each attacher, and compared.
inline void derive(Geometry& plan, std::uint64_t page) {
    plan.n_seats = plan.n_reader + kSpareSeats;
    plan.inline_bytes = static_cast<std::uint32_t>(
        std::min(round_up(plan.max_chunk_bytes + sizeof(NativeSlot), kLinePair) - sizeof(NativeSlot), kInlineBytes));
    plan.slot_bytes = plan.inline_bytes + static_cast<std::uint32_t>(sizeof(NativeSlot));
    plan.ranks_offset = kSeatsOffset + std::uint64_t{plan.n_seats} * sizeof(NativeSeat);
    plan.board_offset = round_up(plan.ranks_offset + std::uint64_t{plan.n_local} * sizeof(std::uint32_t), kLinePair);
    plan.slots_offset = plan.board_offset + std::uint64_t{plan.n_remote()} * sizeof(NativePlacement);
    plan.marks_offset = plan.slots_offset + std::uint64_t{plan.max_chunks} * plan.slot_bytes;
    plan.mark_column_bytes = static_cast<std::uint32_t>(round_up(std::uint64_t{plan.max_leases} * 8, kLinePair));
    const std::uint64_t columns = std::uint64_t{plan.n_seats} + 1;  // the last is for the writer's loans
    plan.control_bytes = round_up(plan.marks_offset + columns * plan.mark_column_bytes, page);
    check_range("the size of the ring", plan.control_bytes, 1, kMaxTotalBytes / 2);
}

inline void derive_data(Geometry& plan, std::uint64_t page) {
    check_range("max_bytes", plan.data_budget, 0, kMaxTotalBytes / 2);
    plan.data_bytes = std::min(plan.data_budget * kAddressFactor, (kMaxTotalBytes - plan.control_bytes) / page * page);
    plan.total_bytes = plan.control_bytes + plan.data_bytes;
}

// How many blocks readers' views may keep beside those that the ring can hold, if the user does not say: fewer where
// there are very many seats.
inline std::uint32_t default_kept(std::uint32_t n_reader) {
    return std::clamp(32768 / (n_reader + kSpareSeats), 64u, 1024u);
}

// `max_bytes` is the budget for all the memory the queue may ever take; 0 chooses a default, as for `max_leases`. A
// default makes room for what was asked for.
inline Geometry plan_geometry(std::uint32_t n_reader, std::uint32_t n_local, std::uint64_t max_chunk_bytes,
                              std::uint32_t max_chunks, std::uint64_t max_bytes, std::uint32_t max_leases,
                              std::uint64_t page) {
    check_range("n_reader", n_reader, 1, kMaxReaders);
    check_range("n_local_reader", n_local, 0, n_reader);
    check_range("max_chunk_bytes", max_chunk_bytes, 1, kMaxChunkBytes);
    check_range("max_chunks", max_chunks, 1, kMaxChunks);
    check_range("max_bytes", max_bytes, 0, kMaxTotalBytes / 2);
    check_range("max_leases", max_leases, 0, kMaxLeases);

    Geometry plan;
    plan.n_reader = n_reader;
    plan.n_local = n_local;
    plan.max_chunks = max_chunks;
    plan.max_chunk_bytes = max_chunk_bytes;
    std::uint32_t kept = default_kept(n_reader);
    plan.max_leases = max_leases != 0 ? max_leases : max_chunks + kept;
    derive(plan, page);

    const std::uint64_t largest_chunk = max_chunk_bytes > plan.inline_bytes ? round_up(max_chunk_bytes, page) : 0;
    while (max_leases == 0 && max_bytes != 0 && max_bytes < plan.control_bytes + largest_chunk && kept > 0) {
        kept /= 2;
        plan.max_leases = max_chunks + kept;
        derive(plan, page);
    }
    if (max_bytes == 0) {
        plan.data_budget = std::max(kDefaultDataBudget, 2 * largest_chunk);
    } else {
        if (max_bytes < plan.control_bytes + largest_chunk)
            throw Error(ErrorCode::invalid_argument,
                        "max_bytes is " + std::to_string(max_bytes) + ", but the ring takes " +
                            std::to_string(plan.control_bytes) + " and one message of max_chunk_bytes=" +
                            std::to_string(max_chunk_bytes) + " takes " + std::to_string(largest_chunk) +
                            " beside it: raise max_bytes, or lower max_chunk_bytes, max_chunks or max_leases");
        plan.data_budget = (max_bytes - plan.control_bytes) / page * page;
    }
    derive_data(plan, page);
    return plan;
}

// The usual largest message, if the user does not say: what the budget has room for, if it is less than the default.
inline std::uint64_t default_chunk_bytes(std::uint32_t n_reader, std::uint32_t n_local, std::uint32_t max_chunks,
                                         std::uint64_t max_bytes, std::uint32_t max_leases, std::uint64_t page) {
    const Geometry ring = plan_geometry(n_reader, n_local, kInlineBytes, max_chunks, max_bytes, max_leases, page);
    return std::clamp(ring.data_budget, kInlineBytes, kDefaultChunkBytes);
}

}  // namespace ringcast
