// CRC-32C (Castagnoli), by what the processor has for it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace ringcast::pool {

// How bytes are summed, from what every processor can do to what the fewest can.
enum class Summing : std::uint8_t { by_table, by_instruction, by_folding };
bool can_sum(Summing how) noexcept;  // does this processor?
Summing fastest_summing() noexcept;

// A checksum of bytes that come piece by piece.
class Checksum {
public:
    // Of what came `before`, whose checksum that is.
    explicit Checksum(std::uint32_t before = 0, Summing how = fastest_summing()) noexcept : sum_(~before), how_(how) {}

    void add(std::span<const std::byte> bytes) noexcept;
    // Adds whole lines and copies them past the caches, to where a line begins (past_caches.hpp). Where it folds, both is done
    // with a line while a register has it.
    void add_copying_past_caches(std::byte* to, std::span<const std::byte> lines) noexcept;
    std::uint32_t value() noexcept;

    // What is folded at a time: pieces of a multiple of it are added fastest.
    static constexpr std::size_t kFold = 64;

private:
    void fold(std::span<const std::byte> bytes) noexcept;
    void unfold() noexcept;

    // If it folds: has the remainder that all bytes so far have.
    [[maybe_unused]] alignas(kFold) std::array<std::byte, kFold> folded_;
    std::uint32_t sum_;  // if not: of all bytes so far, not inverted
    Summing how_;
    bool folds_ = false;
};

std::uint32_t checksum_of(std::span<const std::byte> bytes, std::uint32_t before = 0) noexcept;
// Of two stretches in a row, from the checksum of each.
std::uint32_t joined_checksum(std::uint32_t first, std::uint32_t second, std::size_t second_bytes) noexcept;

}  // namespace ringcast::pool
