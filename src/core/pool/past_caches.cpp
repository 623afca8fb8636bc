#include "pool/past_caches.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#else
#include <cstring>
#endif

namespace ringcast::pool {

#if defined(__x86_64__)

namespace {

// A store for each line, which then has to wait for nothing: in quarters, it takes four places of those that stores wait in, of
// which memory leaves none free, and goes out when the last has come.
[[gnu::target("avx512f")]] void copy_whole(std::byte* to, const std::byte* from, std::size_t lines) noexcept {
    for (; lines != 0; --lines, to += kCacheLine, from += kCacheLine)
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
}

void copy_in_quarters(std::byte* to, const std::byte* from, std::size_t lines) noexcept {
    for (; lines != 0; --lines, to += kCacheLine, from += kCacheLine) {
        auto* const line = reinterpret_cast<__m128i*>(to);
        const auto* const words = reinterpret_cast<const __m128i*>(from);
        const __m128i a = _mm_loadu_si128(words);
        const __m128i b = _mm_loadu_si128(words + 1);
        const __m128i c = _mm_loadu_si128(words + 2);
        const __m128i d = _mm_loadu_si128(words + 3);
        _mm_stream_si128(line, a);
        _mm_stream_si128(line + 1, b);
        _mm_stream_si128(line + 2, c);
        _mm_stream_si128(line + 3, d);
    }
}

// Of the processors with AVX-512 those that do not lower their clock for it: all that came with the wide product, or later.
bool has_whole() noexcept {
    return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("vpclmulqdq") != 0;
}

}  // namespace

void copy_lines_past_caches(std::byte* to, const std::byte* from, std::size_t lines) noexcept {
    static const bool whole = has_whole();
    whole ? copy_whole(to, from, lines) : copy_in_quarters(to, from, lines);
}

#else

void copy_lines_past_caches(std::byte* to, const std::byte* from, std::size_t lines) noexcept {
    std::memcpy(to, from, lines * kCacheLine);
}

#endif

}  // namespace ringcast::pool
