// The journal of a pool: its last events, numbered from 0, in a ring that the server writes and everybody may read.
//
// Nobody waits for a reader: one that comes too late is told so, makes its picture of the pool anew, and goes on from there.
// `events_begun` is counted before a place is overwritten, `events` when that is done. So what a reader has copied was not
// overwritten meanwhile if that event's place had not been begun anew when it looks afterwards. A server that is killed in
// between leaves an event that was not counted, which the next one overwrites.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fault_points.hpp"
#include "pool/pool_layout.hpp"

namespace ringcast::pool {

// The server's: the place of the next event, to be filled in.
template <class P, class Record>
Record& begin_event(ServerWords<P>& words, Record* ring, std::uint32_t n_events) noexcept {
    const std::uint64_t number = words.events.load(std::memory_order_relaxed);
    words.events_begun.store(number + 1, std::memory_order_relaxed);
    P::fence_release();  // release [overwritten]
    P::reached(FaultPoint::pool_event_begun);
    return ring[number & (n_events - 1)];
}
template <class P>
void end_event(ServerWords<P>& words) noexcept {
    P::reached(FaultPoint::pool_event_written);
    words.events.store(words.events.load(std::memory_order_relaxed) + 1, std::memory_order_release);  // release [event]
}

// How many events there have been: those before can be read, as far as they are still there.
template <class P>
std::uint64_t events_so_far(const ServerWords<P>& words) noexcept {
    return words.events.load(std::memory_order_acquire);  // acquire [event]
}

// The first event that was not being overwritten while those before this call were copied.
template <class P>
std::uint64_t first_intact_event(const ServerWords<P>& words, std::uint32_t n_events) noexcept {
    P::fence_acquire();  // acquire [overwritten]
    const std::uint64_t begun = words.events_begun.load(std::memory_order_relaxed);
    return begun - std::min<std::uint64_t>(begun, n_events);
}

}  // namespace ringcast::pool
