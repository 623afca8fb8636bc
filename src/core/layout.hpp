// The memory layout of a queue's segment.
//
//     0              Header       what the segment is; written before anybody can see it, never changed
//     4096           Control      words of the writer
//     seats_offset   Seat[]       one for each attachment: n_reader + kSpareSeats
//     board_offset   Placement[]  one for each reader on another machine
//     slots_offset   slots        max_chunks times: SlotHeader, then the inline area
//     marks_offset   marks        a column of max_leases release marks for each seat, and one for the writer's loans
//     data_offset    data         blocks of messages that do not fit inline; page-aligned, mapped read-only by readers
//
// Every word that one side writes and another reads has a cache-line pair of its own (the adjacent-line prefetcher
// moves pairs). Types that the protocol touches are templates over the platform policy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "area_kind.hpp"
#include "parked.hpp"
#include "platform/policy.hpp"
#include "wait_counters.hpp"

namespace ringcast {

inline constexpr std::size_t kLinePair = 128;
inline constexpr std::uint64_t kMagic = 0x3154'5341'4347'4e52;  // "RNGCAST1" in memory order on little-endian machines
inline constexpr std::uint32_t kLayoutVersion = 7;
inline constexpr std::size_t kReleaseBytes = 24;
inline constexpr std::size_t kUserNameBytes = 128;
inline constexpr std::size_t kHostBytes = 64;
inline constexpr std::size_t kReasonBytes = 256;
inline constexpr std::uint32_t kSpareSeats = 8;
inline constexpr std::size_t kCpuWords = 16;

struct Header {
    std::uint64_t magic;  // as far as `epoch` an AreaHeader
    std::uint32_t layout_version;
    std::uint32_t byte_order;
    std::uint64_t total_bytes;
    std::uint64_t epoch;
    std::uint32_t n_reader;
    std::uint32_t n_local;  // ranks that read through this segment
    std::uint32_t n_seats;
    std::uint32_t max_chunks;
    std::uint64_t max_chunk_bytes;
    std::uint64_t data_bytes;   // address space of the data part
    std::uint64_t data_budget;  // how much of it may have memory at a time
    std::uint32_t inline_bytes;
    std::uint32_t slot_bytes;
    std::uint64_t seats_offset;
    std::uint64_t ranks_offset;  // n_local ranks, 32 bits each
    std::uint64_t slots_offset;
    std::uint64_t marks_offset;
    std::uint64_t data_offset;
    std::uint32_t max_leases;  // rows of release marks
    std::uint32_t mark_column_bytes;
    std::uint32_t creator_pid;
    std::uint32_t named;  // 1: the user gave the name
    std::uint64_t creator_pid_namespace;
    std::int64_t created_at_ns;  // wall clock, for people
    char release[kReleaseBytes];
    char user_name[kUserNameBytes];
    // Of a relay, which a link writes for readers on this machine: the writer whose messages these are.
    std::uint32_t relayed;  // 1: it is one
    std::uint32_t origin_pid;
    char origin_host[kHostBytes];
    std::uint64_t board_offset;
};

// Why nothing will be published any more; 0: more may be.
enum class Ending : std::uint32_t {
    none = 0,
    closed = 1,       // the writer is done
    writer_died = 2,  // of a relay: its origin died
    link_died = 3,    // of a relay: the way to its origin is lost
};

// In place of a rank.
inline constexpr std::uint32_t kNobody = UINT32_MAX;  // of a seat that is kept for whoever comes from another machine
inline constexpr std::uint32_t kStream = UINT32_MAX - 1;  // of a seat from which a link reads for another machine

// What another process wrote into a field of the header, fit for a message.
inline std::string text_of(const char* from, std::size_t size) {
    std::string text(from, strnlen(from, size));
    for (char& c : text)
        if (c < ' ' || c > '~') c = '?';
    return text;
}

inline void copy_text(char* to, std::size_t size, const std::string& from) {
    std::strncpy(to, from.c_str(), size - 1);
    to[size - 1] = '\0';
}

// Who made an area, by its header, of whichever kind that is.
template <class AnyHeader>
Origin origin_in(const AnyHeader& header, std::string user_name) {
    return Origin{.user_name = std::move(user_name),
                  .release = text_of(header.release, sizeof header.release),
                  .creator_pid = header.creator_pid,
                  .creator_pid_namespace = header.creator_pid_namespace};
}

// What a link has counted of a stream's connections, for people. `cut_since` is on the monotonic clock, 0 while there is one;
// `published` what the source of a relay had published when it last said so, counted as the relay counts.
template <class P>
struct Wire {
    typename P::template atomic<std::uint64_t> sent;
    typename P::template atomic<std::uint64_t> received;
    typename P::template atomic<std::uint64_t> cut_since;
    typename P::template atomic<std::uint64_t> published;
    typename P::template atomic<std::uint32_t> reconnects;
    typename P::template atomic<std::uint32_t> encrypted;  // 1: payloads are
};

template <class P>
struct Control {
    // Messages published. Readability is decided by a slot's sequence alone; this serves joiners and statistics.
    alignas(kLinePair) typename P::template atomic<std::uint64_t> head;
    // The writer's word: a seat's number + 1, or kAnySeat.
    alignas(kLinePair) Parked<P> writer_parked;
    alignas(kLinePair) typename P::template atomic<std::uint32_t> closed;  // an Ending
    typename P::template atomic<std::uint32_t> all_ready;                  // 1: every rank has been there
    typename P::template atomic<std::uint32_t> initialised;                // 1, stored last by the creator
    typename P::template atomic<std::uint32_t> departures;      // readers that have left in order, and news of others
    typename P::template atomic<std::uint32_t> promised;        // 1: a handle promises messages to the ranks
    typename P::template atomic<std::uint32_t> out_of_reach;    // of a relay: 1: its source is, for now
    typename P::template atomic<std::uint32_t> encodings_sent;  // bit 1 << Encoding, also of what other messages hold
    Wire<P> wire;                                               // of a relay: written by its link
    alignas(kLinePair) typename P::template atomic<std::uint64_t> data_committed;   // statistics
    typename P::template atomic<std::uint64_t> bytes_published;                     // statistics
    typename P::template atomic<std::uint64_t> blocks_in_use;                       // statistics
    typename P::template atomic<std::uint64_t> block_bytes_in_use;                  // statistics
    typename P::template atomic<std::uint64_t> oversize_messages;                   // statistics: above max_chunk_bytes
    alignas(kLinePair) typename P::template atomic<std::uint64_t> cpus[kCpuWords];  // where the writer may run
    alignas(kLinePair) char reason[kReasonBytes];  // of a relay that has ended: why its source is lost; for people
    alignas(kLinePair) WaitCounters<P> waits;      // statistics, the writer's
};

template <class P>
struct Seat {
    alignas(kLinePair) typename P::template atomic<std::uint64_t> state;  // incarnation and SeatState (seats.hpp)
    typename P::template atomic<std::uint64_t> pid_namespace;
    typename P::template atomic<std::uint64_t> joined_at;  // first message this incarnation gets
    typename P::template atomic<std::uint32_t> rank;
    typename P::template atomic<std::uint32_t> pid;                // 0: nobody has held it
    typename P::template atomic<std::uint64_t> missing_since;      // of the rank whose home this is: see ranks.hpp
    typename P::template atomic<std::uint64_t> missed;             // the same
    typename P::template atomic<std::uint64_t> missed_by_leaving;  // the same
    typename P::template atomic<std::uint32_t> left_pid;           // the same
    Wire<P> wire;                                                  // of a stream's seat: written by its link
    alignas(kLinePair) typename P::template atomic<std::uint64_t> cursor;  // messages read
    typename P::template atomic<std::uint64_t> touching;  // a message's number: the holder may be reading its block
    typename P::template atomic<std::uint64_t> leased_blocks;                       // statistics: held by views
    typename P::template atomic<std::uint64_t> leased_bytes;                        // statistics
    alignas(kLinePair) Parked<P> parked;                                            // the reader's word: 1
    alignas(kLinePair) typename P::template atomic<std::uint64_t> cpus[kCpuWords];  // where the reader may run
    alignas(kLinePair) WaitCounters<P> waits;                                       // statistics, the holder's
};

// What has become of a reader on another machine.
enum class PlacementState : std::uint32_t {
    open = 0,    // nobody has come yet
    placed = 1,  // its machine's stream is up, and it is about to attach there; pid 0: who was is gone, and nobody is
    attached = 2,
    left = 3,
    died = 4,
    evicted = 5,  // by the policy, on its machine
    lost = 6,     // with its link
    cut = 7,      // attached, but out of reach for now
};

// A reader on another machine, as its link tells it. The home seat of the same index belongs to it, too.
template <class P>
struct Placement {
    alignas(kLinePair) typename P::template atomic<std::uint32_t> state;  // a PlacementState
    typename P::template atomic<std::uint32_t> rank;
    typename P::template atomic<std::uint32_t> pid;
    typename P::template atomic<std::uint32_t> stream;  // the seat from which its machine's link reads
    typename P::template atomic<std::uint64_t> behind;  // messages that it had not read, when its link last said so
    typename P::template atomic<std::uint32_t> cause;   // of an eviction
    typename P::template atomic<std::uint32_t> told;    // the writer's: the last state that its user was told of
    typename P::template atomic<std::uint32_t> evict;   // the writer's: counts its wishes to go on without this reader
    alignas(kLinePair) char host[kHostBytes];
};

// How the bytes of a message are to be read.
enum class Encoding : std::uint8_t {
    raw = 0,      // the bytes are the message
    array = 1,    // a NumPy array: a header, then its elements
    pickle = 2,   // a stream, and its out-of-band buffers if the message is framed
    msgpack = 3,  // the same
    tensor = 4,   // a PyTorch tensor: as an array
};
inline constexpr Encoding kLastEncoding = Encoding::tensor;

// What a slot says of its message.
struct Descriptor {
    std::uint64_t length;  // payload bytes
    std::uint64_t block;   // offset into the data part, or kInline
    std::uint32_t row;     // of the release marks; only of a message in a block
    Encoding encoding;
    std::uint8_t framed;  // 1: the payload starts with a table of its frames
    std::uint8_t padding[2];
};
inline constexpr std::uint64_t kInline = UINT64_MAX;
// Blocks of so many bytes and more begin on a page and have their pages to themselves.
inline constexpr std::uint64_t kOwnPagesBytes = 64 << 10;

template <class P>
struct SlotHeader {
    typename P::template atomic<std::uint64_t> sequence;  // n: message n - 1 may be read; 0: nothing yet
    Descriptor descriptor;
};

using NativeControl = Control<platform::Native>;
using NativeSeat = Seat<platform::Native>;
using NativeSlot = SlotHeader<platform::Native>;
using NativePlacement = Placement<platform::Native>;

inline constexpr std::uint64_t kControlOffset = 4096;
inline constexpr std::uint64_t kSeatsOffset = kControlOffset + sizeof(NativeControl);

// Two builds that disagree on any of this must differ in kLayoutVersion.
static_assert(sizeof(Header) <= kControlOffset);
static_assert(offsetof(Header, layout_version) == offsetof(AreaHeader, layout_version));
static_assert(offsetof(Header, byte_order) == offsetof(AreaHeader, byte_order));
static_assert(offsetof(Header, total_bytes) == 16 && offsetof(AreaHeader, total_bytes) == 16);
static_assert(offsetof(Header, epoch) == 24 && offsetof(AreaHeader, epoch) == 24);
static_assert(offsetof(Header, max_chunk_bytes) == 48 && offsetof(Header, seats_offset) == 80);
static_assert(offsetof(Header, marks_offset) == 104 && offsetof(Header, max_leases) == 120);
static_assert(offsetof(Header, creator_pid) == 128 && offsetof(Header, release) == 152);
static_assert(offsetof(Header, relayed) == 304 && offsetof(Header, board_offset) == 376 && sizeof(Header) == 384);
static_assert(offsetof(NativeControl, head) == 0 && offsetof(NativeControl, writer_parked) == 128);
static_assert(sizeof(Parked<platform::Native>) == 16 && offsetof(Parked<platform::Native>, woken_at) == 8);
static_assert(offsetof(NativeControl, closed) == 256 && offsetof(NativeControl, all_ready) == 260 &&
              offsetof(NativeControl, departures) == 268 && offsetof(NativeControl, encodings_sent) == 280);
static_assert(offsetof(NativeControl, wire) == 288 && offsetof(NativeSeat, wire) == 64 &&
              sizeof(Wire<platform::Native>) == 40);
static_assert(offsetof(NativeControl, data_committed) == 384 && offsetof(NativeControl, cpus) == 512);
static_assert(offsetof(NativeControl, reason) == 640 && offsetof(NativeControl, waits) == 896 &&
              sizeof(NativeControl) == 1024);
static_assert(offsetof(NativeSeat, state) == 0 && offsetof(NativeSeat, rank) == 24 &&
              offsetof(NativeSeat, cursor) == 128);
static_assert(offsetof(NativeSeat, parked) == 256 && offsetof(NativeSeat, cpus) == 384 &&
              offsetof(NativeSeat, waits) == 512 && sizeof(NativeSeat) == 640);
static_assert(offsetof(WaitCounters<platform::Native>, brief) == 8 &&
              offsetof(WaitCounters<platform::Native>, rescued_wakes) == 40 &&
              offsetof(WaitCounters<platform::Native>, penalties) == 72 &&
              sizeof(WaitCounters<platform::Native>) == 80);
static_assert(offsetof(NativeSeat, missing_since) == 32 && offsetof(NativeSeat, touching) == 136);
static_assert(offsetof(NativeSeat, leased_blocks) == 144 && offsetof(NativeSeat, leased_bytes) == 152);
static_assert(offsetof(NativePlacement, behind) == 16 && offsetof(NativePlacement, host) == 128);
static_assert(sizeof(NativePlacement) == 256);
static_assert(offsetof(Descriptor, row) == 16 && offsetof(Descriptor, encoding) == 20 &&
              offsetof(Descriptor, framed) == 21);
static_assert(sizeof(Descriptor) == 24 && sizeof(NativeSlot) == 32 && offsetof(NativeSlot, descriptor) == 8);

}  // namespace ringcast
