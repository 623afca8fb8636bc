// Where an end sleeps: a word that is also its futex, and when it was last woken.
#pragma once

#include <cstdint>

namespace ringcast {

template <class P>
struct Parked {
    typename P::futex_word word;  // 0: awake; else what its owner waits for
    // When, on the monotonic clock, a waker last found the word set. It tells the sleeper how long the wait was apart from
    // its own waking up; nothing rests on it, so it is relaxed, and a stale one is told by its time.
    typename P::template atomic<std::int64_t> woken_at;
};

// What the word says where its owner waits for one thing only.
inline constexpr std::uint32_t kParkedToken = 1;

}  // namespace ringcast
