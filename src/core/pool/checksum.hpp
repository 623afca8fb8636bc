// CRC-32C (Castagnoli), by the processor's own instruction where it has one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ringcast::pool {

// Of the bytes, and of what came `before` them, whose checksum that is.
std::uint32_t checksum_of(std::span<const std::byte> bytes, std::uint32_t before = 0) noexcept;
// The same by tables, for processors without the instruction, and for tests.
std::uint32_t checksum_by_table(std::span<const std::byte> bytes, std::uint32_t before = 0) noexcept;
// Of two stretches in a row, from the checksum of each.
std::uint32_t joined_checksum(std::uint32_t first, std::uint32_t second, std::size_t second_bytes) noexcept;

}  // namespace ringcast::pool
