// Three streams at once hide the instruction's latency of three cycles; their remainders are joined by multiplying the
// earlier ones with x^(8 n) modulo the polynomial, by tables for the two distances that are used (M. Adler's method, "crc32c.c").
#include "pool/checksum.hpp"

#include <array>
#include <cstring>

#if defined(__aarch64__)
#include <arm_acle.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

namespace ringcast::pool {

namespace {

constexpr std::uint32_t kPolynomial = 0x82f6'3b78;  // reflected

using Table = std::array<std::uint32_t, 256>;

constexpr std::array<Table, 8> make_tables() {
    std::array<Table, 8> tables{};
    for (std::uint32_t n = 0; n < 256; ++n) {
        std::uint32_t crc = n;
        for (int k = 0; k < 8; ++k) crc = (crc & 1) != 0 ? (crc >> 1) ^ kPolynomial : crc >> 1;
        tables[0][n] = crc;
    }
    for (std::uint32_t n = 0; n < 256; ++n)
        for (std::size_t k = 1; k < 8; ++k) tables[k][n] = tables[0][tables[k - 1][n] & 0xff] ^ (tables[k - 1][n] >> 8);
    return tables;
}
constexpr std::array<Table, 8> kTables = make_tables();

std::uint64_t word_at(const std::byte* at) noexcept {
    std::uint64_t word = 0;
    std::memcpy(&word, at, sizeof word);
    return word;
}

std::uint32_t by_table(std::uint32_t crc, const std::byte* at, std::size_t bytes) noexcept {
    for (; bytes >= 8; at += 8, bytes -= 8) {
        const std::uint64_t word = word_at(at) ^ crc;
        crc = 0;
        for (std::size_t k = 0; k < 8; ++k) crc ^= kTables[7 - k][(word >> (8 * k)) & 0xff];
    }
    for (; bytes != 0; ++at, --bytes) crc = kTables[0][(crc ^ static_cast<std::uint32_t>(*at)) & 0xff] ^ (crc >> 8);
    return crc;
}

// a * b modulo the polynomial, both reflected.
constexpr std::uint32_t product(std::uint32_t a, std::uint32_t b) {
    std::uint32_t result = 0;
    for (std::uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
        if ((a & bit) != 0) result ^= b;
        b = (b & 1) != 0 ? (b >> 1) ^ kPolynomial : b >> 1;
    }
    return result;
}

// x^(8 bytes) modulo the polynomial.
constexpr std::uint32_t power_of_x(std::size_t bytes) {
    std::uint32_t result = 1u << 31;  // 1
    std::uint32_t square = 1u << 23;  // x^8
    for (; bytes != 0; bytes >>= 1) {
        if ((bytes & 1) != 0) result = product(result, square);
        square = product(square, square);
    }
    return result;
}

// What becomes of a remainder when `bytes` zeros follow: by the four bytes of the remainder.
constexpr std::array<Table, 4> make_shift(std::size_t bytes) {
    std::array<Table, 4> tables{};
    const std::uint32_t power = power_of_x(bytes);
    for (std::uint32_t k = 0; k < 4; ++k)
        for (std::uint32_t n = 0; n < 256; ++n) tables[k][n] = product(power, n << (8 * k));
    return tables;
}
constexpr std::size_t kLong = 1024;
constexpr std::size_t kShort = 128;
constexpr auto kShiftLong = make_shift(kLong);
constexpr auto kShiftShort = make_shift(kShort);

std::uint32_t shifted(const std::array<Table, 4>& by, std::uint32_t crc) noexcept {
    return by[0][crc & 0xff] ^ by[1][crc >> 8 & 0xff] ^ by[2][crc >> 16 & 0xff] ^ by[3][crc >> 24];
}

#if defined(__x86_64__)
#if defined(__clang__)  // which has a name of its own for the instruction
#define RINGCAST_CRC_TARGET __attribute__((target("sse4.2,crc32")))
#else
#define RINGCAST_CRC_TARGET __attribute__((target("sse4.2")))
#endif
bool has_instruction() noexcept { return __builtin_cpu_supports("sse4.2") != 0; }
RINGCAST_CRC_TARGET inline std::uint64_t step(std::uint64_t crc, std::uint64_t word) noexcept {
    return __builtin_ia32_crc32di(crc, word);
}
RINGCAST_CRC_TARGET inline std::uint32_t step(std::uint32_t crc, std::byte byte) noexcept {
    return __builtin_ia32_crc32qi(crc, static_cast<unsigned char>(byte));
}
#define RINGCAST_CRC_INSTRUCTION
#elif defined(__aarch64__)
#define RINGCAST_CRC_TARGET __attribute__((target("+crc")))
bool has_instruction() noexcept {
#if defined(__linux__)
    constexpr unsigned long kCrc32 = 1ul << 7;  // HWCAP_CRC32
    return (getauxval(AT_HWCAP) & kCrc32) != 0;
#else
    return true;  // every Mac has it
#endif
}
RINGCAST_CRC_TARGET inline std::uint64_t step(std::uint64_t crc, std::uint64_t word) noexcept {
    return __crc32cd(static_cast<std::uint32_t>(crc), word);
}
RINGCAST_CRC_TARGET inline std::uint32_t step(std::uint32_t crc, std::byte byte) noexcept {
    return __crc32cb(crc, static_cast<unsigned char>(byte));
}
#define RINGCAST_CRC_INSTRUCTION
#endif

#if defined(RINGCAST_CRC_INSTRUCTION)
template <std::size_t Span>
RINGCAST_CRC_TARGET inline std::uint32_t three(std::uint32_t crc, const std::byte*& at, std::size_t& bytes,
                                               const std::array<Table, 4>& shift) noexcept {
    while (bytes >= 3 * Span) {
        std::uint64_t a = crc;
        std::uint64_t b = 0;
        std::uint64_t c = 0;
        for (std::size_t i = 0; i < Span; i += 8) {
            a = step(a, word_at(at + i));
            b = step(b, word_at(at + Span + i));
            c = step(c, word_at(at + 2 * Span + i));
        }
        crc = shifted(shift, static_cast<std::uint32_t>(a)) ^ static_cast<std::uint32_t>(b);
        crc = shifted(shift, crc) ^ static_cast<std::uint32_t>(c);
        at += 3 * Span;
        bytes -= 3 * Span;
    }
    return crc;
}

RINGCAST_CRC_TARGET std::uint32_t by_instruction(std::uint32_t crc, const std::byte* at, std::size_t bytes) noexcept {
    crc = three<kLong>(crc, at, bytes, kShiftLong);
    crc = three<kShort>(crc, at, bytes, kShiftShort);
    std::uint64_t wide = crc;
    for (; bytes >= 8; at += 8, bytes -= 8) wide = step(wide, word_at(at));
    crc = static_cast<std::uint32_t>(wide);
    for (; bytes != 0; ++at, --bytes) crc = step(crc, *at);
    return crc;
}
#endif

}  // namespace

std::uint32_t checksum_by_table(std::span<const std::byte> bytes, std::uint32_t before) noexcept {
    return ~by_table(~before, bytes.data(), bytes.size());
}

std::uint32_t checksum_of(std::span<const std::byte> bytes, std::uint32_t before) noexcept {
#if defined(RINGCAST_CRC_INSTRUCTION)
    static const bool has = has_instruction();
    if (has) return ~by_instruction(~before, bytes.data(), bytes.size());
#endif
    return checksum_by_table(bytes, before);
}

std::uint32_t joined_checksum(std::uint32_t first, std::uint32_t second, std::size_t second_bytes) noexcept {
    return product(power_of_x(second_bytes), first) ^ second;
}

}  // namespace ringcast::pool
