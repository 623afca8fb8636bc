// By the instruction: several streams at once hide its latency of three cycles; their remainders are joined by multiplying
// the earlier ones with x^(8 n) modulo the polynomial (M. Adler's method, "crc32c.c"), by the processor's carry-less product
// where it has one, else by tables.
//
// By folding (V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009), with
// products of 64 bytes at once: what came so far is multiplied with x^512, each lane of 128 bits by itself, which leaves again
// as much, and the next 64 bytes are added. It is a tenth of the instructions, so that beside a copy as good as nothing is
// left of it.
#include "pool/checksum.hpp"

#include <array>
#include <cstring>

#include "pool/past_caches.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
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

// x^exponent modulo the polynomial.
constexpr std::uint32_t power_of_x(std::size_t exponent) {
    std::uint32_t result = 1u << 31;  // 1
    std::uint32_t square = 1u << 30;  // x
    for (; exponent != 0; exponent >>= 1) {
        if ((exponent & 1) != 0) result = product(result, square);
        square = product(square, square);
    }
    return result;
}

#if defined(__x86_64__)
#if defined(__clang__)  // which has a name of its own for the instruction
#define RINGCAST_CRC_TARGET __attribute__((target("sse4.2,crc32,pclmul")))
#else
#define RINGCAST_CRC_TARGET __attribute__((target("sse4.2,pclmul")))
#endif
bool has_instruction() noexcept {
    return __builtin_cpu_supports("sse4.2") != 0 && __builtin_cpu_supports("pclmul") != 0;
}
#define RINGCAST_FOLD_TARGET __attribute__((target("avx512f,vpclmulqdq")))
bool has_wide_product() noexcept {
    return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("vpclmulqdq") != 0;
}
RINGCAST_CRC_TARGET inline std::uint64_t step(std::uint64_t crc, std::uint64_t word) noexcept {
    return __builtin_ia32_crc32di(crc, word);
}
RINGCAST_CRC_TARGET inline std::uint32_t step(std::uint32_t crc, std::byte byte) noexcept {
    return __builtin_ia32_crc32qi(crc, static_cast<unsigned char>(byte));
}
// What becomes of a remainder when so many zeros follow. The product of two reflected ones is x times too large, and the
// instruction multiplies it with x^32.
template <std::size_t Bytes>
RINGCAST_CRC_TARGET inline std::uint64_t shifted(std::uint64_t crc) noexcept {
    constexpr std::uint32_t kPower = power_of_x(8 * Bytes - 33);
    const __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128(static_cast<std::int64_t>(crc)),
                                                 _mm_cvtsi32_si128(static_cast<std::int32_t>(kPower)), 0);
    return step(std::uint64_t{0}, static_cast<std::uint64_t>(_mm_cvtsi128_si64(product)));
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
// What becomes of a remainder when so many zeros follow: by its four bytes.
constexpr std::array<Table, 4> make_shift(std::size_t bytes) {
    std::array<Table, 4> tables{};
    const std::uint32_t power = power_of_x(8 * bytes);
    for (std::uint32_t k = 0; k < 4; ++k)
        for (std::uint32_t n = 0; n < 256; ++n) tables[k][n] = product(power, n << (8 * k));
    return tables;
}
template <std::size_t Bytes>
constexpr auto kShift = make_shift(Bytes);
template <std::size_t Bytes>
std::uint64_t shifted(std::uint64_t crc) noexcept {
    const auto& by = kShift<Bytes>;
    return by[0][crc & 0xff] ^ by[1][crc >> 8 & 0xff] ^ by[2][crc >> 16 & 0xff] ^ by[3][crc >> 24];
}
#define RINGCAST_CRC_INSTRUCTION
#endif

#if defined(RINGCAST_CRC_INSTRUCTION)
constexpr std::size_t kStream = 64;
constexpr std::size_t kStretch = 4 * kStream;
constexpr std::size_t kFetched = 8 * kStretch;  // so far ahead: the processor does it later by itself

// Each stretch by itself, so that the processor can begin with the next one before it has done with this one.
RINGCAST_CRC_TARGET std::uint32_t by_instruction(std::uint32_t crc, const std::byte* at, std::size_t bytes) noexcept {
    std::uint64_t wide = crc;
    for (; bytes >= kStretch; at += kStretch, bytes -= kStretch) {
        std::uint64_t a = 0;
        std::uint64_t b = 0;
        std::uint64_t c = 0;
        std::uint64_t d = 0;
        if (bytes >= kFetched + kStretch)
            for (std::size_t i = 0; i < kStretch; i += kStream) __builtin_prefetch(at + kFetched + i);
        for (std::size_t i = 0; i < kStream; i += 8) {
            a = step(a, word_at(at + i));
            b = step(b, word_at(at + kStream + i));
            c = step(c, word_at(at + 2 * kStream + i));
            d = step(d, word_at(at + 3 * kStream + i));
        }
        wide = shifted<4 * kStream>(wide) ^ shifted<3 * kStream>(a) ^ shifted<2 * kStream>(b) ^ shifted<kStream>(c) ^ d;
    }
    for (; bytes >= 8; at += 8, bytes -= 8) wide = step(wide, word_at(at));
    crc = static_cast<std::uint32_t>(wide);
    for (; bytes != 0; ++at, --bytes) crc = step(crc, *at);
    return crc;
}
#endif

#if defined(RINGCAST_FOLD_TARGET)
// Whole multiples of kFold. The two halves of a lane are polynomials of their own, x^64 apart; a product is x times too large,
// and a factor of 32 bits in the lower half of 64 is x^32 times what it stands for: hence the 33.
template <bool copies_past_caches>
RINGCAST_FOLD_TARGET void fold_into(std::byte* folded, std::span<const std::byte> bytes,
                                    [[maybe_unused]] std::byte* to = nullptr) noexcept {
    constexpr std::size_t kBits = 8 * Checksum::kFold;
    constexpr std::int64_t kEarlier = power_of_x(kBits + 64 - 33);
    constexpr std::int64_t kLater = power_of_x(kBits - 33);
    const __m512i powers = _mm512_set4_epi64(kLater, kEarlier, kLater, kEarlier);
    __m512i all = _mm512_load_si512(folded);
    for (std::size_t at = 0; at != bytes.size(); at += Checksum::kFold) {
        const __m512i next = _mm512_loadu_si512(bytes.data() + at);
        if constexpr (copies_past_caches) _mm512_stream_si512(reinterpret_cast<__m512i*>(to + at), next);
        all = _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(all, powers, 0x00),
                                        _mm512_clmulepi64_epi128(all, powers, 0x11), next,
                                        0x96);  // the exclusive or of all three
    }
    _mm512_store_si512(folded, all);
}
#endif

}  // namespace

bool can_sum(Summing how) noexcept {
    if (how == Summing::by_table) return true;
#if defined(RINGCAST_FOLD_TARGET)
    if (how == Summing::by_folding) return has_instruction() && has_wide_product();
#endif
#if defined(RINGCAST_CRC_INSTRUCTION)
    if (how == Summing::by_instruction) return has_instruction();
#endif
    return false;
}

Summing fastest_summing() noexcept {
    static const Summing fastest = can_sum(Summing::by_folding)       ? Summing::by_folding
                                   : can_sum(Summing::by_instruction) ? Summing::by_instruction
                                                                      : Summing::by_table;
    return fastest;
}

void Checksum::add(std::span<const std::byte> bytes) noexcept {
    // To begin and to end folding costs what it saves of so much.
    constexpr std::size_t kWorthFolding = 2 * kFold;
    if (how_ == Summing::by_folding && bytes.size() >= (folds_ ? kFold : kWorthFolding)) {
        const std::size_t whole = bytes.size() - bytes.size() % kFold;
        fold(bytes.first(whole));
        bytes = bytes.subspan(whole);
    }
    if (bytes.empty()) return;
    unfold();
#if defined(RINGCAST_CRC_INSTRUCTION)
    if (how_ != Summing::by_table) {
        sum_ = by_instruction(sum_, bytes.data(), bytes.size());
        return;
    }
#endif
    sum_ = by_table(sum_, bytes.data(), bytes.size());
}

void Checksum::add_copying_past_caches(std::byte* to, std::span<const std::byte> lines) noexcept {
    static_assert(kFold == kCacheLine);
#if defined(RINGCAST_FOLD_TARGET)
    if (folds_) {
        fold_into<true>(folded_.data(), lines, to);
        return;
    }
#endif
    copy_lines_past_caches(to, lines.data(), lines.size() / kCacheLine);
    add(lines);
}

std::uint32_t Checksum::value() noexcept {
    unfold();
    return ~sum_;
}

void Checksum::fold([[maybe_unused]] std::span<const std::byte> bytes) noexcept {
#if defined(RINGCAST_FOLD_TARGET)
    if (!folds_) {
        // What came before is as if added to what comes first.
        std::memcpy(folded_.data(), bytes.data(), kFold);
        const std::uint64_t first = word_at(folded_.data()) ^ sum_;
        std::memcpy(folded_.data(), &first, sizeof first);
        bytes = bytes.subspan(kFold);
        folds_ = true;
    }
    fold_into<false>(folded_.data(), bytes);
#endif
}

void Checksum::unfold() noexcept {
#if defined(RINGCAST_FOLD_TARGET)
    if (!folds_) return;
    sum_ = by_instruction(0, folded_.data(), kFold);
    folds_ = false;
#endif
}

std::uint32_t checksum_of(std::span<const std::byte> bytes, std::uint32_t before) noexcept {
    Checksum sum(before);
    sum.add(bytes);
    return sum.value();
}

std::uint32_t joined_checksum(std::uint32_t first, std::uint32_t second, std::size_t second_bytes) noexcept {
    return product(power_of_x(8 * second_bytes), first) ^ second;
}

}  // namespace ringcast::pool
