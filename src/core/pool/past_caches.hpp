// Writing past the caches: where more is written than they hold, each line would be fetched into them only to be overwritten,
// which is a third of all the traffic, and would drive out what is in use. On other processors these are plain copies.
#pragma once

#include <cstddef>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace ringcast::pool {

inline constexpr std::size_t kCacheLine = 64;

// `to` is where a line begins. Not ordered with other writes, not even by a release: see written_past_caches.
void copy_lines_past_caches(std::byte* to, const std::byte* from, std::size_t lines) noexcept;

// What this thread has written past the caches is written before whatever it writes from here on.
inline void written_past_caches() noexcept {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

}  // namespace ringcast::pool
