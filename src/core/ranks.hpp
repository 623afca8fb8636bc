// What a rank that a handle promises messages to has not got, for people: counted, never waited for.
//
// The words lie in the rank's home seat, whichever seat its readers take. They are written by who holds the rank's lock,
// and by the writer when it evicts; a process that is killed between two of these stores may leave a count that is off.
#pragma once

#include <cstdint>

#include "layout.hpp"

namespace ringcast {

// From message `position` on nobody reads for the rank, because its reader, `pid`, has left; or, 0, was evicted.
template <class P>
void note_absence(Seat<P>& home, std::uint64_t position, std::uint32_t pid) noexcept {
    if (home.missing_since.load(std::memory_order_relaxed) != 0) return;
    home.left_pid.store(pid, std::memory_order_relaxed);
    home.missing_since.store(position + 1, std::memory_order_relaxed);
}

// Message `first` is the next one that somebody reads for the rank.
template <class P>
void note_presence(Seat<P>& home, std::uint64_t first) noexcept {
    const std::uint64_t since = home.missing_since.load(std::memory_order_relaxed);
    if (since == 0) return;
    if (first + 1 > since) {
        home.missed.fetch_add(first + 1 - since, std::memory_order_relaxed);
        if (home.left_pid.load(std::memory_order_relaxed) != 0)
            home.missed_by_leaving.fetch_add(first + 1 - since, std::memory_order_relaxed);
    }
    home.missing_since.store(0, std::memory_order_relaxed);
}

// Messages before `head` that nobody has read for the rank.
template <class P>
std::uint64_t missed_before(const Seat<P>& home, std::uint64_t head) noexcept {
    const std::uint64_t since = home.missing_since.load(std::memory_order_relaxed);
    const std::uint64_t missed = home.missed.load(std::memory_order_relaxed);
    return since != 0 && head + 1 > since ? missed + (head + 1 - since) : missed;
}

}  // namespace ringcast
