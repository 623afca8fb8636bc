// Pins: who may be touching which chunk.
//
// Whoever may touch a block, to read or to write, has its entry pinned: (entry, generation) in a row of its seat, which it
// alone writes. The server gives no block to anybody else while a living seat holds such a pin. It is Dekker's argument
// again, once for a whole batch on either side:
//
//     client:  word [entry], digest;   pins = (entry, generation);   fence [pin];    the words are still the same
//     server:  words = limbo;          fence [collect];              pins            none holds it: it may go
//
// If [pin] comes first, the server finds the pin; if [collect] does, the client's second look finds the word changed, and
// the client takes it for a miss. A pin of a chunk holds its ancestors, too: nothing goes that has a child.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pool/index.hpp"

namespace ringcast::pool {

// The client's row: which of its pins are in use. One thread at a time.
template <class P>
class PinRow {
public:
    static constexpr std::uint32_t kFull = UINT32_MAX;
    using Pin = typename P::template atomic<std::uint64_t>;
    using Used = typename P::template atomic<std::uint32_t>;

    PinRow(Pin* pins, Used& used, std::uint32_t n) : pins_(pins), used_(&used), n_(n) {
        kept_.reserve(n);  // so that `keep` never needs memory
    }

    // Takes a place and says in it what is held. Nothing is held yet: see [pin]. kFull: there is no place left.
    std::uint32_t put(std::uint32_t entry, std::uint32_t generation, std::uint32_t part = kNoPart) {
        std::uint32_t at = kFull;
        if (!free_.empty()) {
            at = free_.back();
            free_.pop_back();
        } else if (next_ < n_) {
            at = next_++;
            free_.reserve(next_);                            // so that `clear` never needs memory
            used_->store(next_, std::memory_order_relaxed);  // [pin]
        } else {
            return kFull;
        }
        pins_[at].store(pin_word(entry, generation, part), std::memory_order_relaxed);  // [pin]
        ++puts_;
        return at;
    }
    // What is held at a place is from here on an ancestor of what was: it has been held all the time, and there is no
    // moment in between.
    void move(std::uint32_t at, std::uint32_t entry, std::uint32_t generation) noexcept {
        if (is_kept(at)) return;
        pins_[at].store(pin_word(entry, generation), std::memory_order_release);  // release [unpin]
    }
    void clear(std::uint32_t at) noexcept {
        if (is_kept(at)) return;
        // release [unpin]: what was read or written there comes before the server gives the block to another.
        pins_[at].store(0, std::memory_order_release);
        free_.push_back(at);
    }
    // What is held now is never given back.
    void keep() noexcept {
        kept_.resize(next_);
        for (std::uint32_t at = 0; at < next_; ++at)
            if (pins_[at].load(std::memory_order_relaxed) != 0) kept_[at] = true;
    }
    // Is this chunk held by any place?
    bool holds(std::uint32_t entry, std::uint32_t generation) const noexcept {
        for (std::uint32_t at = 0; at < next_; ++at) {
            const std::uint64_t pin = pins_[at].load(std::memory_order_relaxed);
            if (pin != 0 && pinned_entry(pin) == entry && pinned_generation(pin) == generation) return true;
        }
        return false;
    }
    bool keeps_any() const noexcept { return !kept_.empty(); }
    std::uint64_t puts() const noexcept { return puts_; }  // how many there have been
    std::uint32_t room() const noexcept { return n_ - held(); }
    std::uint32_t held() const noexcept { return next_ - static_cast<std::uint32_t>(free_.size()); }

private:
    bool is_kept(std::uint32_t at) const noexcept { return at < kept_.size() && kept_[at]; }

    Pin* pins_;
    Used* used_;
    std::uint32_t n_;
    std::uint32_t next_ = 0;
    std::uint64_t puts_ = 0;
    std::vector<std::uint32_t> free_;
    std::vector<bool> kept_;
};

// The server's: what living and dead seats have pinned, as of all words that were stored before. `row` gives a seat's pins
// and how many of them may be set; visit(seat, pin) is called for each that is, until it is false for a seat.
template <class P, class Row, class Visit>
void collect_pins(std::uint32_t n_seats, Row&& row, Visit&& visit) {
    P::fence_seq_cst();  // [collect]: pairs with [pin], and with [entry-look]
    for (std::uint32_t seat = 0; seat < n_seats; ++seat) {
        const auto [pins, used] = row(seat);
        for (std::uint32_t i = 0; i < used; ++i) {
            const std::uint64_t pin = pins[i].load(std::memory_order_acquire);  // acquire [unpin]
            if (pin != 0 && !visit(seat, pin)) break;
        }
    }
}

// A place in the row, and which of a lease's looks it holds: [first, last], each the parent of the next.
struct Place {
    std::uint32_t at;
    std::uint32_t first;
    std::uint32_t last;
};

// Pins the leading looks that are still what they were, and says how many those are; their places are in `places`. Those
// that are each other's parents take one place. Nothing is held beyond them; busy: a place was missing, and nothing is held
// at all.
template <class P>
struct Pinned {
    std::uint32_t count = 0;
    bool busy = false;
};
template <class P, class Places>
Pinned<P> pin_leading(const Index<P>& index, PinRow<P>& row, std::span<const Look> looks, Places& places) {
    auto n = static_cast<std::uint32_t>(looks.size());
    while (n > 0) {
        std::uint32_t first = 0;
        for (std::uint32_t i = 0; i < n; ++i) {
            const bool goes_on = i + 1 < n && index.entries[looks[i + 1].entry].parent.load(
                                                  std::memory_order_relaxed) == looks[i].entry + 1;
            if (goes_on) continue;
            const std::uint32_t place = row.put(looks[i].entry, generation_of(looks[i].word));
            if (place == PinRow<P>::kFull) {
                for (const Place& one : places) row.clear(one.at);
                places.clear();
                return {0, true};
            }
            places.push_back(Place{place, first, i});
            first = i + 1;
        }
        P::fence_seq_cst();  // [pin]
        std::uint32_t same = 0;
        while (same < n && index.is_unchanged(looks[same])) ++same;
        if (same == n) break;
        for (const Place& one : places) row.clear(one.at);
        places.clear();
        n = same;
    }
    return {n, false};
}

}  // namespace ringcast::pool
