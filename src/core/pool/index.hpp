// The index of a pool: which entry a key has.
//
// A key has two different buckets of eight cells, one cache line each, and lies in the one that was emptier when it came: no probing
// and no tombstones, so a miss costs the same after any number of turnovers. A cell's tag only saves looks at entries that
// are another key's; what counts is the entry: its digest, and before and after that its word.
//
//     server:  word = limbo [entry];  fence [collect];  word = free;  digest = ...;  word = reserved, one generation on [entry]
//     reader:  word [entry];  digest the same?;  fence [entry-look];  the word is still the same
//
// A reader that finds the digest of the chunk that came later is told so by its second look: that digest was stored behind
// the fence [collect], by which every entry goes (pins.hpp), and the word that says so before it.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

#include "pool/pool_layout.hpp"

namespace ringcast::pool {

// One key of a batch, as it was found at the first look.
struct Look {
    std::uint32_t entry;
    std::uint64_t word;
};

template <class P>
struct Index {
    Entry<P>* entries = nullptr;
    Cell<P>* cells = nullptr;
    std::uint32_t n_entries = 0;
    std::uint32_t n_buckets = 0;
    std::uint64_t seed = 0;

    struct Where {
        std::uint32_t buckets[2];
        std::uint32_t tag;
    };
    Where where(const Digest& key) const noexcept {
        const std::uint32_t first = reduced(mixed(key.words[0] ^ seed), n_buckets);
        const std::uint32_t second = reduced(mixed(key.words[1] + seed), n_buckets - 1);
        return {{first, second + (second >= first ? 1 : 0)}, static_cast<std::uint32_t>(key.words[2])};
    }
    Cell<P>* bucket(std::uint32_t b) const noexcept { return cells + std::uint64_t{b} * kCellsInBucket; }
    // In line, or GCC takes calls of it for ones without any effect, and drops them.
    [[gnu::always_inline]] void prefetch(const Where& where, std::uint32_t side) const noexcept {
        __builtin_prefetch(bucket(where.buckets[side]));
    }
    [[gnu::always_inline]] void prefetch(const Where& where) const noexcept {
        for (const std::uint32_t side : {0U, 1U}) prefetch(where, side);
    }

    static bool is_of(const Entry<P>& entry, const Digest& key) noexcept {
        for (std::size_t i = 0; i < 4; ++i)
            if (entry.digest[i].load(std::memory_order_relaxed) != key.words[i]) return false;
        return true;
    }

    // Which cells of one of the two buckets have the key's tag, as bits. All are looked at: where a key lies in its bucket
    // is a branch that no processor predicts.
    std::uint32_t candidates(const Where& where, std::uint32_t side) const noexcept {
        std::uint32_t with_tag = 0;
        for (std::uint32_t cell = 0; cell < kCellsInBucket; ++cell) {
            // relaxed: a cell only says where to look; its entry's word orders what is read there.
            const std::uint64_t at = bucket(where.buckets[side])[cell].load(std::memory_order_relaxed);
            with_tag |= std::uint32_t{at >> 32 == where.tag} << cell;
        }
        return with_tag;
    }
    // What the first of them says now.
    std::uint32_t first_of(const Where& where, std::uint32_t side, std::uint32_t candidates) const noexcept {
        const Cell<P>& cell = bucket(where.buckets[side])[std::countr_zero(candidates)];
        const std::uint32_t entry = static_cast<std::uint32_t>(cell.load(std::memory_order_relaxed)) - 1;
        return entry < n_entries ? entry : kNoEntry;
    }

    struct Found {
        std::uint32_t entry = kNoEntry;
        std::uint64_t word = 0;
    };
    // Where the key is, and the word of its entry at the first look. Worth nothing before a second look. It begins with
    // the candidates of one bucket.
    Found find(const Digest& key, const Where& where, std::uint32_t side, std::uint32_t with_tag) const noexcept {
        for (;; with_tag = candidates(where, ++side)) {
            for (; with_tag != 0; with_tag &= with_tag - 1) {
                const std::uint32_t entry = first_of(where, side, with_tag);
                if (entry == kNoEntry) continue;
                const std::uint64_t word = entries[entry].word.load(std::memory_order_acquire);  // acquire [entry]
                if (state_of(word) == EntryState::free || state_of(word) == EntryState::limbo) continue;
                if (is_of(entries[entry], key)) return {entry, word};
            }
            if (side == 1) return {};
        }
    }
    Found find(const Digest& key) const noexcept {
        const Where at = where(key);
        return find(key, at, 0, candidates(at, 0));
    }

    // Behind a fence that orders it after the first.
    bool is_unchanged(const Look& look) const noexcept {
        return entries[look.entry].word.load(std::memory_order_relaxed) == look.word;
    }
    // How many of the leading looks are what they were: so many chunks are there, though nothing holds them.
    std::uint32_t confirmed(std::span<const Look> looks) const noexcept {
        P::fence_acquire();  // [entry-look]: pairs with [collect] and [forget]; the digests were read before
        std::uint32_t n = 0;
        while (n < looks.size() && is_unchanged(looks[n])) ++n;
        return n;
    }

    // --- The server's.

    Digest digest_of(std::uint32_t entry) const noexcept {
        Digest key;
        for (std::size_t i = 0; i < 4; ++i) key.words[i] = entries[entry].digest[i].load(std::memory_order_relaxed);
        return key;
    }
    // False: both buckets are full.
    bool insert(const Digest& key, std::uint32_t entry) noexcept {
        const Where at = where(key);
        std::uint32_t free_cells[2] = {};
        Cell<P>* empty[2] = {};
        for (int side = 0; side < 2; ++side)
            for (std::uint32_t i = 0; i < kCellsInBucket; ++i) {
                Cell<P>& cell = bucket(at.buckets[side])[i];
                if (cell.load(std::memory_order_relaxed) != 0) continue;
                ++free_cells[side];
                empty[side] = &cell;
            }
        const int side = free_cells[0] >= free_cells[1] ? 0 : 1;
        if (empty[side] == nullptr) return false;
        empty[side]->store(std::uint64_t{at.tag} << 32 | (entry + 1), std::memory_order_relaxed);
        return true;
    }
    Cell<P>* cell_of(const Digest& key, std::uint32_t entry) const noexcept {
        const Where at = where(key);
        const std::uint64_t cell = std::uint64_t{at.tag} << 32 | (entry + 1);
        for (const std::uint32_t b : at.buckets)
            for (std::uint32_t i = 0; i < kCellsInBucket; ++i)
                if (bucket(b)[i].load(std::memory_order_relaxed) == cell) return &bucket(b)[i];
        return nullptr;
    }
    void remove(const Digest& key, std::uint32_t entry) noexcept {
        if (Cell<P>* const cell = cell_of(key, entry)) cell->store(0, std::memory_order_relaxed);
    }

    // The entry, which is free and in no cell, becomes this key's. Others see it when its word says so. If it was another
    // key's before, it went by [collect].
    void describe(std::uint32_t entry, const Digest& key, std::uint64_t block, std::uint32_t length,
                  std::uint32_t parent) noexcept {
        Entry<P>& at = entries[entry];
        for (std::size_t i = 0; i < 4; ++i) at.digest[i].store(key.words[i], std::memory_order_relaxed);
        at.block.store(block, std::memory_order_relaxed);
        at.length.store(length, std::memory_order_relaxed);
        at.parent.store(parent == kNoEntry ? 0 : parent + 1, std::memory_order_relaxed);
        at.checksum.store(0, std::memory_order_relaxed);
        at.checked.store(0, std::memory_order_relaxed);
    }
    // A tiered entry gets a block again, to be filled. Counted up, so that who has found it as it was before, and only now
    // looks again, does not take what is written there for what he found.
    void take_back(std::uint32_t entry, std::uint64_t block) noexcept {
        Entry<P>& at = entries[entry];
        at.block.store(block, std::memory_order_relaxed);
        at.checksum.store(0, std::memory_order_relaxed);
        at.checked.store(0, std::memory_order_relaxed);
        set(entry, generation_of(word(entry)) + 1, EntryState::reserved);
    }
    // A tiered entry, which nobody can hold, is nobody's any more and may be described anew at once.
    void forget(std::uint32_t entry, std::uint32_t generation) noexcept {
        set(entry, generation, EntryState::free);
        P::fence_release();  // [forget]: pairs with [entry-look]
    }
    void set(std::uint32_t entry, std::uint32_t generation, EntryState state) noexcept {
        // release [entry]: what describes the entry, and with `present` its bytes, comes before.
        entries[entry].word.store(entry_word(generation, state), std::memory_order_release);
    }
    std::uint64_t word(std::uint32_t entry) const noexcept {
        return entries[entry].word.load(std::memory_order_relaxed);  // by the server, who alone stores it
    }

private:
    static std::uint64_t mixed(std::uint64_t x) noexcept {
        x ^= x >> 33;
        x *= 0xff51'afd7'ed55'8ccd;
        x ^= x >> 33;
        return x;
    }
    static std::uint32_t reduced(std::uint64_t hash, std::uint32_t n) noexcept {
        return static_cast<std::uint32_t>((hash >> 32) * n >> 32);
    }
};

}  // namespace ringcast::pool
