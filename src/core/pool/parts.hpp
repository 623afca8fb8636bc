// A chunk of N parts: one entry and one block, of which each rank of a group stores a range.
//
//     block  | part 0 | part 1 | ... | part N-1 | N checksums, of four bytes |
//
// A chunk of one part is as long as that, and has its checksum in its entry. That of more parts is of the whole block, their
// checksums included, so that whoever moves or checks a chunk as a whole need not know that it has parts.
//
// While it is reserved its record has a bit for each part that is there. The last part sets none: the entry's word becomes
// `present` instead, so there is no state in which all parts are there and the chunk is not. Bits order nothing. Who reads a
// part finds its bytes, as all of a chunk's, by [ask], which brought each part's to the server, and [entry].
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "pool/pool_layout.hpp"

namespace ringcast::pool {

using PartSet = std::uint64_t;

// One of how many.
struct Part {
    std::uint32_t number = 0;  // kNoPart: none of them
    std::uint32_t of = 1;
};

inline constexpr PartSet part_bit(std::uint32_t part) noexcept { return PartSet{1} << part; }
inline constexpr PartSet all_parts(std::uint32_t parts) noexcept {
    return parts >= kMaxParts ? ~PartSet{0} : part_bit(parts) - 1;
}

// The bytes of a block whose parts have so many together.
inline constexpr std::uint64_t block_bytes(std::uint64_t chunk_bytes, std::uint32_t parts) noexcept {
    return parts == 1 ? chunk_bytes : chunk_bytes + parts * sizeof(std::uint32_t);
}
// The bytes of a part, of a block of this length.
inline constexpr std::uint64_t part_bytes(std::uint64_t length, std::uint32_t parts) noexcept {
    return parts == 1 ? length : (length - parts * sizeof(std::uint32_t)) / parts;
}
// Can a block of this length have so many parts?
inline constexpr bool has_parts(std::uint64_t length, std::uint32_t parts) noexcept {
    if (parts == 1) return length != 0;
    const std::uint64_t sums = parts * sizeof(std::uint32_t);
    return parts != 0 && parts <= kMaxParts && length > sums && (length - sums) % parts == 0;
}

// What was stored of a block of this length: its parts together. One that cannot have so many is told as it is.
inline constexpr std::uint64_t payload_bytes(std::uint64_t length, std::uint32_t parts) noexcept {
    return has_parts(length, parts) ? part_bytes(length, parts) * parts : length;
}

// A part's checksum behind the parts: plain memory, which the server alone writes, before the chunk is present.
inline std::uint32_t part_sum(const std::byte* block, std::uint64_t length, std::uint32_t parts,
                              std::uint32_t part) noexcept {
    std::uint32_t sum = 0;
    std::memcpy(&sum, block + length - (parts - part) * sizeof sum, sizeof sum);
    return sum;
}
inline void put_part_sum(std::byte* block, std::uint64_t length, std::uint32_t parts, std::uint32_t part,
                         std::uint32_t sum) noexcept {
    std::memcpy(block + length - (parts - part) * sizeof sum, &sum, sizeof sum);
}

// The server's: this part is there. True: it was the last, and the entry is to say so.
template <class Word>
bool complete_with(Word& committed, std::uint32_t parts, std::uint32_t part) noexcept {
    const PartSet there = committed.load(std::memory_order_relaxed) | part_bit(part);
    if (there == all_parts(parts)) return true;
    committed.store(there, std::memory_order_relaxed);
    return false;
}
// What is missing of a chunk that is reserved.
template <class Word>
PartSet missing_parts(const Word& committed, std::uint32_t parts) noexcept {
    return all_parts(parts) & ~committed.load(std::memory_order_relaxed);
}

}  // namespace ringcast::pool
