// A pool of two entries as modelled threads: what Keeper, Server and Client do with the headers, without what is not the
// protocol's. Checked: nobody reads or writes bytes that may be another's, nothing is seen that is not there, and every
// request has one outcome.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "pool/index.hpp"
#include "pool/journal.hpp"
#include "pool/mailbox.hpp"
#include "pool/parts.hpp"
#include "pool/pins.hpp"

#include "ends.hpp"

namespace model {

class PoolWorld {
public:
    static constexpr std::uint32_t kEntries = 2;
    static constexpr std::uint32_t kPins = 2;
    static constexpr std::uint32_t kServerLock = 1;
    static constexpr std::uint32_t kSeatLock = 2;

    PoolWorld();
    // Entry 1 is the child of entry 0, and both are there; else both are free.
    void fill();
    // Entry 0 is reserved, of two parts, whose bytes are its block and the next one; and both members have joined, or nobody.
    void reserve_for_group(bool joined);
    void start();

    // Small, and without memory of its own (see fiber.hpp).
    struct Places {
        std::array<ringcast::pool::Place, kPins> all{};
        std::uint32_t n = 0;
        void push_back(const ringcast::pool::Place& place) { all[n++] = place; }
        void clear() { n = 0; }
        const ringcast::pool::Place* begin() const { return all.data(); }
        const ringcast::pool::Place* end() const { return all.data() + n; }
    };

    ringcast::pool::Index<Policy> index;
    std::array<ringcast::pool::Entry<Policy>, kEntries> entries;
    std::array<ringcast::pool::Cell<Policy>, 2 * ringcast::pool::kCellsInBucket> cells;
    std::array<Policy::atomic<std::uint64_t>, kPins> pins;
    Policy::atomic<std::uint32_t> used;
    Policy::atomic<std::uint64_t> mail;
    Policy::atomic<std::uint32_t> request;  // what is asked
    Policy::atomic<std::uint32_t> status;   // answered: was there room?
    ringcast::pool::ServerWords<Policy> words;
    // Of a group: who fills a part of entry 0.
    static constexpr std::uint32_t kMembers = 2;
    struct Member {
        std::array<Policy::atomic<std::uint64_t>, 1> pins;
        Policy::atomic<std::uint32_t> used;
        Policy::atomic<std::uint64_t> mail;
        Policy::atomic<std::uint32_t> status;
        std::optional<ringcast::pool::PinRow<Policy>> row;
    };
    std::array<Member, kMembers> members;
    Policy::atomic<std::uint64_t> committed;
    std::array<Policy::atomic<std::uint32_t>, 2> event;  // the one place of a journal: both say the event's number + 1
    ringcast::Parked<Policy> server_parked;
    ringcast::Parked<Policy> client_parked;

    // As of now, known to nobody in the program.
    std::optional<ringcast::pool::PinRow<Policy>> row;
    std::array<ringcast::pool::Look, kEntries> looks{};
    Places places;
    std::array<bool, 4> stored{};  // by key: was it committed?
    bool told = false;             // what the server answered last
};

// The server evicts both entries, as far as they are not held, and gives their blocks to other keys.
void evict_and_reuse(World& world);
// The server aborts the child, whoever holds it, and gives its block away once nobody does.
void abort_and_reuse(World& world);
// The server evicts both entries, as far as they are not held, and a tier keeps their chunks. The first one's comes back in
// the second one's block, its own is overwritten, and the second entry becomes another key's.
void evict_to_a_tier_and_take_back(World& world);
// A client pins what it finds of the chain, and reads it in the blocks that it is in.
void pin_and_read_where_it_lies(World& world);
// A client looks whether the key that comes later is there, in memory or in a tier.
void look_for_the_next_in_tiers(World& world);
// A client finds the chain, pins as much of it as is there, reads it and lets go.
void pin_and_read(World& world);
// A client looks whether the key that comes later is there.
void look_for_the_next(World& world);

// A client asks for a chunk, fills it, and gives it up again. With a deadline it may withdraw.
void reserve_and_fill(World& world, bool withdraws);
// The server of such a client; then looks whether what it reserved is still somebody's, and fills the block itself if not.
void serve(World& world);
// A member of a group fills its part and commits it.
void fill_part(World& world, std::uint32_t member);
// The server of a group: takes their commits; then looks who is dead, gives the chunk up whose part is missing, and its blocks
// away once nobody holds them. With `aborts` it is given up in between by one of them.
void serve_group(World& world, bool aborts);
// Somebody reads all of it, once it is there.
void read_group(World& world);
// A client joins, and fills its part.
void join_and_fill(World& world);
// The server of such a client; and another one, which gives the part to somebody else if nobody has it.
void serve_join(World& world);
void adopt_group(World& world);
// A server notes two events, in a journal that has room for one.
void note_events(World& world);
// Somebody reads the last one that there is.
void read_event(World& world);
// Another server, once there is none.
void adopt(World& world);

}  // namespace model
