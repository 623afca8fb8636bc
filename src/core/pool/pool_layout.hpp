// The memory of a pool.
//
//     0               PoolHeader     what it is; written before anybody can see it, never changed
//     4096            ServerWords    words of the server: clients only read them
//     8192            Bell           how clients call the server
//     seats_offset    PoolSeat[]     one for each client: its pins, its touches, its mailbox; whole pages
//     entries_offset  Entry[]        one for each chunk that the pool can hold
//     records_offset  EntryRecord[]  what a hit does not need of them
//     cells_offset    cells          which entry a key has: two buckets of eight for each key
//     events_offset   EventRecord[]  what was stored and removed lately
//     spaces_offset   SpaceRecord[]  the namespaces of what was stored
//     data_offset     blocks         the chunks' bytes
//
// A client maps all of it read-only, and once more, writable, its own seat, the bell, and the blocks when it first stores.
// So no client's stray store can reach the index, which is the one authority: which memory is in use can be told from
// the entries alone, at every instruction.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "area_kind.hpp"
#include "layout.hpp"
#include "parked.hpp"
#include "pool/digest.hpp"
#include "pool/leaves.hpp"

namespace ringcast::pool {

inline constexpr std::uint64_t kPoolMagic = 0x314c'4f4f'5047'4e52;  // "RNGPOOL1" in memory order
inline constexpr std::uint32_t kPoolLayoutVersion = 3;
inline constexpr std::uint32_t kMaxSeats = 1024;
inline constexpr std::uint32_t kMaxPins = 1u << 20;
inline constexpr std::uint32_t kMaxEntries = (1u << 25) - 1;  // so that a pin has room for a part
inline constexpr std::uint32_t kMaxParts = 64;                // of a chunk
inline constexpr std::uint32_t kNoPart = UINT32_MAX;
inline constexpr std::uint64_t kBytesAnEntry = 16 * 1024;  // of capacity, unless told otherwise
inline constexpr std::uint32_t kCellsInBucket = 8;
// With two, both buckets of a key are full once in a thousand million stores into a full pool; with three, never in practice.
inline constexpr std::uint32_t kCellsAnEntry = 3;
inline constexpr std::uint32_t kLeastBuckets = 64;  // few of them are often uneven
inline constexpr std::uint32_t kMailSlots = 8;
inline constexpr std::uint32_t kBatch = 256;  // keys in one request
inline constexpr std::uint32_t kTouches = 64;
inline constexpr std::uint32_t kQuotasShown = 64;
inline constexpr std::uint32_t kMostTiers = 4;
inline constexpr std::uint32_t kSpaceBytes = 1528;  // model, revision, dtype, layout at their longest, and numbers
inline constexpr std::uint32_t kMostSpaces = 4096;
inline constexpr std::uint32_t kPolicies = 3;
inline constexpr std::uint32_t kCurveFactors = 4;
inline constexpr std::size_t kWorkerIdBytes = 64;

struct PoolHeader {
    std::uint64_t magic;  // as far as `epoch` an AreaHeader
    std::uint32_t layout_version;
    std::uint32_t byte_order;
    std::uint64_t total_bytes;
    std::uint64_t epoch;
    std::uint64_t capacity;
    std::uint64_t seed;  // of the index
    std::uint32_t n_seats;
    std::uint32_t n_pins;  // of a seat
    std::uint32_t n_entries;
    std::uint32_t n_buckets;
    std::uint64_t seat_bytes;
    std::uint64_t seats_offset;
    std::uint64_t entries_offset;
    std::uint64_t records_offset;
    std::uint64_t cells_offset;
    std::uint64_t events_offset;
    std::uint64_t spaces_offset;
    std::uint64_t data_offset;
    std::uint32_t n_events;  // a power of two
    std::uint32_t n_spaces;
    std::uint32_t creator_pid;
    std::uint32_t kept;       // 1: it stays when nobody has it
    std::uint32_t checksums;  // 1: what is stored by hand gets one
    std::uint64_t creator_pid_namespace;
    std::int64_t created_at_ns;  // wall clock, for people
    char release[kReleaseBytes];
    char user_name[kUserNameBytes];
};

// What becomes of an entry. It owns its block in every state but `free` and `tiered`; presence is decided by its word alone.
//
//     free -> reserved -> present -> (limbo) -> free
//     reserved -> limbo -> free          aborted, or its owner died
//     present -> limbo -> present        it was to be evicted, and somebody held it
//     present -> limbo -> tiered         evicted, and a tier of this machine has a copy
//     free -> tiered                     such a copy was there when the server came
//     tiered -> reserved                 a block of its own again, to be filled from the tier, or by a client
//     tiered -> free                     its copy is dropped
//     present -> quarantined             its bytes are not what was stored, or two entries claim them: never used again
enum class EntryState : std::uint8_t { free = 0, reserved = 1, present = 2, limbo = 3, quarantined = 4, tiered = 5 };

// An entry's word: how often it has become reserved, and its state. So a word that is the same again is of the same chunk in
// the same block.
inline constexpr std::uint64_t entry_word(std::uint32_t generation, EntryState state) noexcept {
    return std::uint64_t{generation} << 8 | static_cast<std::uint8_t>(state);
}
inline constexpr std::uint32_t generation_of(std::uint64_t word) noexcept {
    return static_cast<std::uint32_t>(word >> 8);
}
inline constexpr EntryState state_of(std::uint64_t word) noexcept { return static_cast<EntryState>(word & 0xff); }

// What a pin says: this entry, as it was in this generation, and which part of it its client has come to fill (parts.hpp).
// 0: nothing.
inline constexpr std::uint64_t pin_word(std::uint32_t entry, std::uint32_t generation,
                                        std::uint32_t part = kNoPart) noexcept {
    return std::uint64_t{part + 1} << 57 | (std::uint64_t{entry} + 1) << 32 | generation;
}
inline constexpr std::uint32_t pinned_entry(std::uint64_t pin) noexcept {
    return (static_cast<std::uint32_t>(pin >> 32) & ((1u << 25) - 1)) - 1;
}
inline constexpr std::uint32_t pinned_part(std::uint64_t pin) noexcept {
    return static_cast<std::uint32_t>(pin >> 57) - 1;  // 0 becomes kNoPart
}
inline constexpr std::uint32_t pinned_generation(std::uint64_t pin) noexcept { return static_cast<std::uint32_t>(pin); }

// What a hit looks at: one cache line.
template <class P>
struct alignas(64) Entry {
    typename P::template atomic<std::uint64_t> digest[4];
    typename P::template atomic<std::uint64_t> word;
    typename P::template atomic<std::uint64_t> block;     // offset in the data part
    typename P::template atomic<std::uint32_t> length;    // bytes
    typename P::template atomic<std::uint32_t> parent;    // its entry + 1; 0: none
    typename P::template atomic<std::uint32_t> checksum;  // CRC-32C of the bytes, from the commit on
    typename P::template atomic<std::uint32_t> checked;   // 1: it has one
};

// All written by the server, relaxed: the entry's word passes them on.
inline constexpr std::uint32_t kServersOwn = 0xffff'ffff;  // the owner of what the server itself fills, from a tier
struct alignas(64) EntryRecord {
    using Word = std::atomic<std::uint32_t>;
    Word owner_seat;
    Word owner_incarnation;
    Word request;  // its number in the owner's mailbox slot
    Word slot;
    Word parent_generation;
    Word uses;
    std::atomic<std::uint64_t> tenant;
    std::atomic<std::uint64_t> space;
    std::atomic<std::int64_t> stored_at_ns;  // wall clock
    std::atomic<std::uint64_t> committed;    // while it is reserved: a bit for each part that is there
    Word parts;
    Word ended;  // why it was given up, see `ending_word`
};

// Why a reservation was given up, and by whom: for messages. `incarnation` has room for its lower bits.
enum class Ending : std::uint32_t { none = 0, aborted, died, let_go, cleared };
inline constexpr std::uint32_t kEndingIncarnations = 1u << 18;
inline constexpr std::uint32_t ending_word(Ending why, std::uint32_t seat, std::uint32_t incarnation) noexcept {
    return static_cast<std::uint32_t>(why) << 28 | (seat % kMaxSeats) << 18 | incarnation % kEndingIncarnations;
}
inline constexpr Ending ending_of(std::uint32_t word) noexcept { return static_cast<Ending>(word >> 28); }
inline constexpr std::uint32_t ending_seat(std::uint32_t word) noexcept { return (word >> 18) % kMaxSeats; }
inline constexpr std::uint32_t ending_incarnation(std::uint32_t word) noexcept { return word % kEndingIncarnations; }

template <class P>
using Cell = typename P::template atomic<std::uint64_t>;  // tag << 32 | entry + 1; 0: empty

// Whose a seat is: a client's, or that of forked children, which hold what their parent held (client.hpp) and ask for
// nothing. Its lock byte says whether they live; the seat of the dead only the server gives back.
enum class PoolSeatState : std::uint32_t { vacant = 0, taken = 1, inherited = 2 };

// A mailbox slot's word: the number of the request, and how far it is. Client and server move it by compare-and-swap, so a
// request has one outcome, which both know.
//
//     client:  idle -> asked(n)          release [ask]
//     server:  asked(n) -> answered(n)   release [answer]     client:  asked(n) -> withdrawn(n), its deadline has passed
//     client:  answered(n) -> idle, when pinned               server:  withdrawn(n) -> idle, when all is undone
enum class MailPhase : std::uint8_t { idle = 0, asked = 1, answered = 2, withdrawn = 3 };
inline constexpr std::uint64_t mail_word(std::uint32_t number, MailPhase phase) noexcept {
    return std::uint64_t{number} << 8 | static_cast<std::uint8_t>(phase);
}
inline constexpr std::uint32_t mail_number(std::uint64_t word) noexcept {
    return static_cast<std::uint32_t>(word >> 8);
}
inline constexpr MailPhase mail_phase(std::uint64_t word) noexcept { return static_cast<MailPhase>(word & 0xff); }

// Why a request was not done.
enum class Refusal : std::uint32_t {
    none = 0,
    senseless,   // it makes no sense
    not_cleared  // clear: a tier cannot promise that what was there does not come back
};

enum class Ask : std::uint32_t {
    reserve = 1,
    commit = 2,
    abort = 3,
    clear = 4,
    suspect = 5,
    describe = 6,
    promote = 7,
    join = 8
};

// What became of a key: what both `store` and `retrieve` say of it.
enum class Status : std::uint32_t {
    none = 0,   // nothing yet: no caller sees it
    reserved,   // store: the caller's to fill
    cached,     // store: it is there
    pending,    // another client stores it just now
    own,        // store: this client stores it already
    busy,       // the caller's row of pins is full
    no_memory,  // store: nothing can be evicted for it
    orphan,     // store: its parent is not in the pool
    hit,        // retrieve
    miss,       // retrieve
    committed,  // store: it is there now
    lost,       // store: the reservation was given up before
    tiered,     // retrieve: it is in a tier, and not in memory
    damaged,    // to who suspected a chunk: its bytes are not what was stored. No caller sees it
};

// One key of a request, and what is answered. Clients write `digest`, `entry`, `generation` and `checksum`, as the
// request needs them; the server `status`, `entry` and `generation`. Relaxed: the slot's word passes them on.
struct MailItem {
    using Word = std::atomic<std::uint32_t>;
    std::atomic<std::uint64_t> digest[4];
    Word entry;
    Word generation;
    Word checksum;
    Word status;
};

template <class P>
struct alignas(kLinePair) MailSlot {
    typename P::template atomic<std::uint64_t> word;
    Parked<P> parked;  // who waits for the answer
    std::atomic<std::uint32_t> kind;
    std::atomic<std::uint32_t> count;
    std::atomic<std::uint32_t> length;   // bytes of each chunk
    std::atomic<std::uint32_t> chained;  // each key is the parent of the next
    std::atomic<std::uint32_t> has_parent;
    std::atomic<std::uint32_t> checked;  // commit: items have checksums
    std::atomic<std::uint32_t> parts;    // reserve: how many a chunk has; join, commit: which one, or kNoPart
    std::atomic<std::uint64_t> parent[4];
    std::atomic<std::uint64_t> tenant;
    std::atomic<std::uint64_t> space;
    std::atomic<std::uint32_t> refused;  // answer: a Refusal
    MailItem items[kBatch];
};

// Counted by the seat's client, for `pool stat`.
struct SeatCounters {
    std::atomic<std::uint64_t> lookups, keys_looked_up, keys_found, retrieves, keys_retrieved, hits;

    // By its only writer.
    void add(const SeatCounters& other) noexcept {
        const auto one = [](std::atomic<std::uint64_t>& count, const std::atomic<std::uint64_t>& more) {
            count.store(count.load(std::memory_order_relaxed) + more.load(std::memory_order_relaxed),
                        std::memory_order_relaxed);
        };
        one(lookups, other.lookups);
        one(keys_looked_up, other.keys_looked_up);
        one(keys_found, other.keys_found);
        one(retrieves, other.retrieves);
        one(keys_retrieved, other.keys_retrieved);
        one(hits, other.hits);
    }
};

template <class P>
struct alignas(4096) PoolSeat {
    typename P::template atomic<std::uint64_t> state;  // incarnation << 32 | PoolSeatState
    std::atomic<std::uint32_t> pid;
    std::atomic<std::uint64_t> pid_namespace;
    std::atomic<std::int64_t> since_ns;  // wall clock
    char worker_id[kWorkerIdBytes];
    alignas(kLinePair) SeatCounters counters;
    // How many of its pins may be other than 0: never lowered while the seat is taken.
    alignas(kLinePair) typename P::template atomic<std::uint32_t> pins_used;
    // What was used lately, for the policy: see `touch_word`. Overwritten when full.
    std::atomic<std::uint64_t> touched;  // how many there have been
    std::atomic<std::uint64_t> touches[kTouches];
    MailSlot<P> mail[kMailSlots];
    typename P::template atomic<std::uint64_t> pins[1];  // n_pins of them; then since when each is there, for people
};

// When that pin was put, in milliseconds of the monotonic clock, of which these are the low bits.
template <class P>
std::atomic<std::uint32_t>* pinned_since(const PoolSeat<P>& seat, std::uint32_t n_pins) noexcept {
    return reinterpret_cast<std::atomic<std::uint32_t>*>(
        const_cast<typename P::template atomic<std::uint64_t>*>(seat.pins + n_pins));
}

// An entry that was used, and how many of its ancestors along. By a store: they were there when the rest was stored.
inline constexpr std::uint64_t touch_word(std::uint32_t entry, std::uint32_t ancestors, bool by_store) noexcept {
    return std::uint64_t{entry} << 32 | std::uint64_t{by_store} << 16 | std::min(ancestors, 0xffffu);
}
inline constexpr std::uint32_t touched_entry(std::uint64_t touch) noexcept {
    return static_cast<std::uint32_t>(touch >> 32);
}
inline constexpr std::uint32_t touched_ancestors(std::uint64_t touch) noexcept {
    return static_cast<std::uint32_t>(touch) & 0xffff;
}
inline constexpr bool touched_by_store(std::uint64_t touch) noexcept { return (touch >> 16 & 1) != 0; }

inline constexpr std::uint64_t seat_word(std::uint32_t incarnation, PoolSeatState state) noexcept {
    return std::uint64_t{incarnation} << 32 | static_cast<std::uint32_t>(state);
}
inline constexpr std::uint32_t seat_incarnation(std::uint64_t word) noexcept {
    return static_cast<std::uint32_t>(word >> 32);
}
inline constexpr PoolSeatState seat_state(std::uint64_t word) noexcept {
    return static_cast<PoolSeatState>(word & 0xffff'ffff);
}

enum class PoolLife : std::uint32_t { open = 0, closed = 1 };

// What happened to chunks, for whoever keeps a picture of what is in the pool.
enum class EventKind : std::uint32_t {
    stored = 1,
    removed,
    cleared,  // all of a namespace, or of the pool
    resync,   // a server took the pool over: what happened before may be missing, and the picture is to be made anew
};
enum class EventReason : std::uint32_t {
    none = 0,
    evicted,   // for what was to be stored
    orphaned,  // what it continued is gone
    damaged,   // its bytes were not what was stored
    failed,    // it could not be read
};

// Where that was: in memory, or in the tier of this number - 1.
using EventMedium = std::uint32_t;
inline constexpr EventMedium kInMemory = 0;
inline constexpr EventMedium in_tier(std::size_t tier) noexcept { return static_cast<EventMedium>(tier + 1); }

inline constexpr std::uint32_t event_word(EventKind kind, EventReason reason, EventMedium medium) noexcept {
    return medium << 24 | static_cast<std::uint32_t>(kind) << 16 | static_cast<std::uint32_t>(reason);
}
inline constexpr EventKind kind_of_event(std::uint32_t word) noexcept {
    return static_cast<EventKind>(word >> 16 & 0xff);
}
inline constexpr EventReason reason_of_event(std::uint32_t word) noexcept {
    return static_cast<EventReason>(word & 0xffff);
}
inline constexpr EventMedium medium_of_event(std::uint32_t word) noexcept { return word >> 24; }

// One place of the journal (journal.hpp). Written by the server alone, relaxed.
struct alignas(32) EventRecord {
    std::atomic<std::uint64_t> digest[4];
    std::atomic<std::uint64_t> parent[4];  // zeros: none
    std::atomic<std::uint64_t> tenant;
    std::atomic<std::uint64_t> space;  // of `cleared`: 0 is all of the pool
    std::atomic<std::int64_t> at_ns;   // wall clock
    std::atomic<std::uint32_t> length;
    std::atomic<std::uint32_t> what;  // event_word
};

// A tier as its server drives it, for people. Times are those that its threads spent.
struct TierWords {
    char name[kWorkerIdBytes];
    std::atomic<std::uint32_t> local;   // 1: on this machine, its chunks are in the index
    std::atomic<std::uint64_t> slots;   // 0: nobody knows
    std::atomic<std::uint64_t> copies;  // chunks of the index that it has
    std::atomic<std::uint64_t> stored, stored_bytes, store_ns;
    std::atomic<std::uint64_t> wanted, loaded, loaded_bytes, load_ns;
    std::atomic<std::uint64_t> dropped;  // not copied: too many waited, or they went before it was their turn
    std::atomic<std::uint64_t> failed, corrupt, late;
    std::atomic<std::uint64_t> waiting, running;
};

template <class P>
struct ServerWords {
    std::atomic<std::uint32_t> initialised;  // 1, stored last by the creator
    std::atomic<PoolLife> life;
    std::atomic<std::uint64_t> epoch;  // how many servers it has had
    std::atomic<std::uint32_t> pid;    // of the server
    std::atomic<std::uint64_t> pid_namespace;
    // Counts whatever ends a wait for a chunk: a commit, an abort. Its own futex.
    alignas(kLinePair) typename P::futex_word changes;
    // Of the journal: how many events there have been, and how many have been begun.
    alignas(kLinePair) typename P::template atomic<std::uint64_t> events;
    typename P::template atomic<std::uint64_t> events_begun;
    // For people.
    alignas(kLinePair) std::atomic<std::uint64_t> used_bytes, chunks, reserved, limbo, quarantined;
    std::atomic<std::uint64_t> stored, evicted, aborted, cleared, no_memory, full_buckets, refused;
    SeatCounters past;  // of clients that are gone
    std::atomic<std::uint32_t> policy;
    // What each policy would hit, in millionths, with other sizes (hit_rate_curve.hpp), and of how many accesses that is.
    std::atomic<std::uint32_t> curve[kPolicies][kCurveFactors];
    std::atomic<std::uint64_t> curve_accesses, curve_lost;
    std::atomic<std::uint64_t> spaces_without_room;
    std::atomic<std::uint32_t> n_quotas;  // of which the first are here
    struct {
        std::atomic<std::uint64_t> tenant, bytes;
    } quotas[kQuotasShown];
    std::atomic<std::uint32_t> n_tiers;
    std::atomic<std::uint32_t> asks_tiers;  // 1: what is not in the index may be in one of them all the same
    TierWords tiers[kMostTiers];
};

// What a namespace is, for people: docs/keys.md has its bytes. Written once, by the server.
struct alignas(64) SpaceRecord {
    std::atomic<std::uint32_t> written;  // 1, stored last: release [space]
    std::uint32_t length;
    Digest digest;
    Digest salt_digest;
    std::byte bytes[kSpaceBytes];
};

template <class P>
struct Bell {
    std::atomic<std::uint64_t> rung[kMaxSeats / 64];  // a bit for each seat
    alignas(kLinePair) Parked<P> server_parked;
    alignas(kLinePair) typename P::template atomic<std::uint32_t> changes_wanted;  // 1: somebody sleeps on `changes`
};

inline constexpr std::uint64_t kServerWordsOffset = 4096;
inline constexpr std::uint64_t kBellOffset = 8192;
inline constexpr std::uint64_t kSeatsFrom = 12288;
static_assert(sizeof(PoolHeader) <= 4096);

using NativeEntry = Entry<platform::Native>;
using NativePoolSeat = PoolSeat<platform::Native>;
using NativeMailSlot = MailSlot<platform::Native>;
static_assert(sizeof(NativeEntry) == 64 && sizeof(EntryRecord) == 64);
static_assert(sizeof(ServerWords<platform::Native>) <= 4096 && sizeof(Bell<platform::Native>) <= 4096);

}  // namespace ringcast::pool
