// Writing past the caches: where more is written than they hold, each line would be fetched into them only to be overwritten,
// which is a third of all the traffic, and would drive out what is in use. On other processors these are plain copies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace ringcast::pool {

inline constexpr std::size_t kCacheLine = 64;

// `to` is where a line begins. Not ordered with other writes, not even by a release: see written_past_caches.
[[gnu::always_inline]] inline void copy_line_past_caches(std::byte* to, const std::byte* from) noexcept {
#if defined(__x86_64__)
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
#else
    std::memcpy(to, from, kCacheLine);
#endif
}

// What this thread has written past the caches is written before whatever it writes from here on.
inline void written_past_caches() noexcept {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

}  // namespace ringcast::pool
