// Parking: how an end sleeps until another makes its condition true, without a lost wake-up.
//
// Each end has one parked word, which is also its futex. The argument is Dekker's:
//
//     sleeper:  parked = token;  fence [park];     re-check every condition;  futex_wait(parked, token)
//     waker:    condition = true;  fence [signal];  if parked:  exchange parked with 0, futex_wake
//
// The two seq_cst fences are totally ordered. If [park] comes first, the waker's load after [signal] sees the token and
// wakes; if [signal] comes first, the sleeper's re-check after [park] sees the condition and does not sleep. Between
// the re-check and the futex_wait the kernel compares the word: a waker that came in between has zeroed it. Because the
// word itself is the futex, one word covers any number of conditions.
#pragma once

#include <cstdint>

#include "fault_points.hpp"
#include "parked.hpp"
#include "platform/futex.hpp"

namespace ringcast {

// The caller has made a condition true and has executed its [signal] fence.
template <class P>
void unpark(Parked<P>& parked) noexcept {
    // relaxed: the fences order it. The exchange lets exactly one waker make the system call.
    if (parked.word.load(std::memory_order_relaxed) == 0) return;
    parked.woken_at.store(P::now_ns(), std::memory_order_relaxed);
    if (parked.word.exchange(0, std::memory_order_relaxed) == 0) return;
    P::reached(FaultPoint::wake_begin);
    P::futex_wake_all(parked.word);
}

// Makes true what the sleeper looks at beside what others do for it: its own process wants it awake.
template <class P>
void rouse(typename P::template atomic<bool>& flag, Parked<P>& parked) noexcept {
    flag.store(true, std::memory_order_relaxed);
    P::fence_seq_cst();  // [signal]
    unpark<P>(parked);
}

enum class ParkResult { ready, woken, timed_out, interrupted, rescued };

// Who waits for many ends at once arms their words with this token, and leaves them armed meanwhile (armed.hpp). A thread
// may park on such an end as well: it puts its own token there, and takes back no other one.
inline constexpr std::uint32_t kSelects = 0x73656c;

// Ends a park that found `before` in the word. Whoever waits for many ends believes a word armed that it armed, so it is
// woken to look for itself.
template <class P>
void disarm(Parked<P>& parked, std::uint32_t token, std::uint32_t before) noexcept {
    if (before == kSelects) return unpark<P>(parked);
    // relaxed: nothing is read after it that must be seen.
    parked.word.compare_exchange_strong(token, 0, std::memory_order_relaxed, std::memory_order_relaxed);
}

// Sleeps until unparked, at most `timeout_ns`. `ready` looks at every condition that ends the wait.
// `rescued`: the time-out found the condition true and nobody came to wake us: a lost wake-up.
template <class P, class Ready>
ParkResult park(Parked<P>& parked, std::uint32_t token, std::int64_t timeout_ns, Ready&& ready) noexcept {
    constexpr std::int64_t kGraceNs = 20'000'000;  // a waker may be between its store and its exchange
    P::reached(FaultPoint::park_begin);
    const std::uint32_t before = parked.word.exchange(token, std::memory_order_relaxed);
    P::reached(FaultPoint::park_stored);
    P::fence_seq_cst();  // [park]
    if (ready()) {
        disarm<P>(parked, token, before);
        return ParkResult::ready;
    }
    P::reached(FaultPoint::park_checked);
    const auto result = P::futex_wait(parked.word, token, timeout_ns);
    P::reached(FaultPoint::park_returned);
    ParkResult outcome = ParkResult::woken;
    if (parked.word.load(std::memory_order_relaxed) != 0) {
        if (result == platform::FutexResult::interrupted) outcome = ParkResult::interrupted;
        if (result == platform::FutexResult::timed_out) {
            outcome = ParkResult::timed_out;
            if (ready()) {
                P::futex_wait(parked.word, token, kGraceNs);
                outcome = parked.word.load(std::memory_order_relaxed) != 0 ? ParkResult::rescued : ParkResult::woken;
            }
        }
    }
    disarm<P>(parked, token, before);
    return outcome;
}

}  // namespace ringcast
