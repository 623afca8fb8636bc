// Waiting for many ends at once: one sleeper, the parked words of all of them.
//
// A word stays armed from one wait to the next, so a wake-up costs what fired, and not what was waited for. A source is
// armed or hot. Hot ones are looked at; a source that was seen empty after its word was armed is looked at no more until
// the word has fired:
//
//     sleeper:  arm every hot word;  fence [park];  look at every hot source: it stays hot, or counts as armed
//               if none is hot:  sleep on all words, unless one does not hold the token any more
//               the source is hot whose word has fired: that which the system names, or any that does not hold it
//     waker:    condition = true;  fence [signal];  if the word is not 0:  exchange it with 0, futex_wake
//
// It is the argument of parking.hpp, for each word by itself. A source leaves the hot ones only there: one whose message
// was just taken may have another one, whose waker has found the word unarmed.
//
// A source has `parked()`, its word; `something()`: is there what it is waited for; and `armed`.
#pragma once

#include <cstdint>

#include "parking.hpp"

namespace ringcast {

// Is there something in a hot source?
template <class P, class Sources>
bool arm(Sources& sources) noexcept {
    for (auto& source : sources)
        if (!source.armed) source.parked().word.store(kSelects, std::memory_order_relaxed);
    P::fence_seq_cst();  // [park]
    bool any = false;
    for (auto& source : sources) {
        if (source.armed) continue;
        if (source.something())
            any = true;
        else
            source.armed = true;
    }
    return any;
}

// Makes the source hot if its word has fired. Had it, since it was armed?
template <class Source>
bool has_fired(Source& source) noexcept {
    if (!source.armed || source.parked().word.load(std::memory_order_relaxed) == kSelects) return false;
    source.armed = false;
    return true;
}

// The same for all. Each word lies in a page of its own, so for who has just been woken that is the dearest part of it.
template <class Sources>
bool find_fired(Sources& sources) noexcept {
    bool any = false;
    for (auto& source : sources) any |= has_fired(source);
    return any;
}

}  // namespace ringcast
