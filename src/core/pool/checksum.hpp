// CRC-32C (Castagnoli), by the processor's own instruction where it has one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ringcast::pool {

std::uint32_t checksum_of(std::span<const std::byte> bytes) noexcept;
// The same by tables, for processors without the instruction, and for tests.
std::uint32_t checksum_by_table(std::span<const std::byte> bytes) noexcept;

}  // namespace ringcast::pool
