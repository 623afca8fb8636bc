// The two ends of a queue as modelled threads: what Sender, Arena, Receiver and Lease do, without what is not the
// protocol's (sizes, errors, statistics, Python). Waits park at once; a time-out comes only when nothing else can happen.
//
// Checked here: each message is whole, the next one, and none is missing at the end; nothing torn is ever believed; no
// park is ended by its time-out alone although its condition is true. Races on bytes are the explorer's to find.
#pragma once

#include <array>
#include <memory>
#include <new>
#include <string>

#include "board.hpp"
#include "marks.hpp"
#include "policy.hpp"
#include "readiness.hpp"
#include "ring.hpp"

namespace model {

using Ring = ringcast::RingView<Policy>;
using Seat = ringcast::Seat<Policy>;
using Placement = ringcast::Placement<Policy>;
using ringcast::Descriptor;
using ringcast::SeatState;
using ringcast::Start;

struct Shape {
    std::uint32_t seats = 1;
    std::uint32_t depth = 1;
    SeatState state = SeatState::expected;  // of all seats at the start
    std::uint32_t blocks = 0;               // and rows of marks
    bool keeper = false;                    // two threads of the writer's use the arena
    std::uint32_t remote = 0;               // readers on other machines, whose homes are the last seats
};

// A queue's memory. It is made once for a program; its locations start anew in each execution.
class PoolWorld;

class World {
public:
    static constexpr std::uint32_t kWriterLock = 3;
    static constexpr std::uint32_t kArenaLock = 4;
    static constexpr std::uint32_t kTapLock = 5;  // the others are the seats'
    static constexpr std::size_t kBlockBytes = 64;
    static constexpr std::uint32_t kPid = 7;  // of readers elsewhere

    explicit World(const Shape& shape);

    Ring ring;
    std::uint32_t blocks;
    bool keeper;
    bool attached;                         // from the start
    bool expected;                         // the same
    std::array<std::uint8_t, 3> holder{};  // the thread that took the seat last
    std::uint64_t published = 0;           // as of now, known to nobody in the program
    std::array<std::uint64_t, 3> read{};   // by whoever had the seat last: the messages before this one
    Policy::atomic<bool> roused;           // by the reader's own process
    // The arena's book-keeping: small, and without memory of its own (see fiber.hpp).
    struct Block {
        std::uint64_t position;
        std::uint32_t row;  // and the block's number
    };
    struct Arena {
        std::array<std::uint32_t, 4> free{};
        std::array<Block, 4> unread{}, held{};
        std::uint32_t n_free = 0, n_unread = 0, n_held = 0;
        bool shared = false;  // by two threads of the writer's process, which lock it
    } arena;
    std::array<bool, 3> kept{};  // is it certain that what the seat's readers have not read is kept?
    std::uint32_t taps = 0;      // threads that read as links do, one bit each: nothing they touch is ever given away

    // Two links and what is under way between them, as one of them knows it, and under kTapLock.
    struct Wire {
        std::array<Block, 4> taken{};               // by the tap, and not acknowledged: of messages in blocks
        std::array<std::uint64_t, 4> under_way{};   // numbers of messages
        std::array<std::uint64_t, 4> bytes_sent{};  // and what they say
        std::uint32_t n_taken = 0, n_under_way = 0;
        std::uint64_t acknowledged = 0;
        std::uint64_t published = 0;  // by the other link
        bool broken = false;
    } wire;
    Policy::atomic<bool> arrived;  // something has, at the other link
    ringcast::Parked<Policy> far_parked;

    std::byte* block(std::uint64_t index) const { return data_ + index * kBlockBytes; }
    std::uint64_t index_of(std::uint64_t offset) const { return offset / kBlockBytes; }
    PoolWorld* pool = nullptr;  // of who has one (pool.hpp)
    // Thread 0 is the writer, and thread i + 1 has seat i if it is taken at the start.
    void start();

private:
    struct Free {
        void operator()(std::byte* bytes) const { ::operator delete[](bytes, std::align_val_t{ringcast::kLinePair}); }
    };
    std::unique_ptr<std::byte, Free> memory_;
    std::byte* data_ = nullptr;
};

constexpr std::uint64_t content(std::uint64_t position) { return 100 + position; }

// Parks. True if only time has ended it; a wake-up that was lost is a violation.
template <class Ready>
bool sleep(ringcast::Parked<Policy>& parked, std::uint32_t token, Ready&& ready) {
    const auto result = ringcast::park<Policy>(parked, token, INT64_MAX, ready);
    // Who was killed between a store and its wake-up wakes nobody: that is what the bound on every park is for.
    if (result == ringcast::ParkResult::rescued && !Explorer::the().any_killed())
        Explorer::the().fail("lost wake-up: what it waits for is true, and nobody will wake it");
    return result == ringcast::ParkResult::timed_out;
}

class Writer {
public:
    explicit Writer(World& world) : world_(world), ring_(world.ring), arena_(world.arena) {}

    enum class Announce { now, later };
    // What it does about a reader that died.
    enum class Dead { evict, tell, wait };
    Dead dead = Dead::evict;
    // Waits for room and publishes one message, in its slot or in a block.
    void send(Announce announce = Announce::now);
    void send_block();
    void close();
    void announce() { ring_.announce(); }
    // As the policy for slow readers does, or a user.
    bool evict(std::uint32_t seat) {
        return evict(seat, world_.ring.seats[seat].state.load(std::memory_order_relaxed));
    }
    // Waits until the reader of each seat has attached.
    void await_readers();
    // Promises what is sent from now on to the seat's rank; in any thread.
    static void expect(World& world, std::uint32_t seat);
    // Waits once for room for a message.
    void await_slot_once();
    // Writes a block, then says that all are ready.
    void prepare_and_confirm();
    // Stops waiting for who has not come to the seat.
    void give_up_absent(std::uint32_t seat);
    // If a reader has left, its seat is seen left; if there is news of one elsewhere, it is seen.
    void look_for_departures();
    void look_for_news();
    // Waits until the readers elsewhere are there.
    void await_placed();
    void ask_to_evict(std::uint32_t index) { ringcast::ask_to_evict(world_.ring, index); }
    // Takes blocks back in another thread than that which sends, once.
    static void keep_arena(World& world);

private:
    using Block = World::Block;
    class ArenaLock;

    bool evict(std::uint32_t seat, std::uint64_t word);
    void publish(const Descriptor& descriptor);
    void await_slot();
    bool take_block(std::uint32_t& row);
    void reclaim(std::uint64_t gate, bool ask_kernel);
    bool is_held(const Block& block, bool ask_kernel);
    bool may_have_block();
    bool drop_dead(std::uint32_t seat);

    World& world_;
    ringcast::RingWriter<Policy> ring_;
    World::Arena& arena_;
};

enum class Ended { closed, enough, evicted, writer_died, no_seat };

class Reader {
public:
    Reader(World& world, std::uint32_t seat) : world_(world), index_(seat) {}

    // Waits for the seat's lock and takes the seat.
    bool attach(Start start = Start::promised);
    // Reads at most so many messages, copying each; or leasing each, to be read and given back by `end_lease`.
    Ended read(std::uint64_t most, bool lease = false);
    // Reads the leased block once more and marks it.
    void end_lease();
    // Leaves without having consumed what it copied: an exception came between.
    void look_and_leave();
    // Waits until all are ready, and reads what the writer had prepared.
    void await_ready();
    // Waits, for nothing that is in the ring.
    void await_rouse();
    // Makes a seat that is free the image of its own, with a lease, for a child; and looks at the leased block as the child,
    // long after the parent's lease has ended.
    void make_image(std::uint32_t image);
    void look_as_child(std::uint32_t image);
    // Gives the seat back, in order or as if it had been killed; a lease keeps its lock.
    void leave(bool in_order = true);
    void unlock() { Explorer::the().unlock(index_, Site::current()); }

    std::uint64_t first() const { return first_; }

private:
    bool receive(ringcast::RingReader<Policy>& ring, bool lease);
    Ended await_message(ringcast::RingReader<Policy>& ring);

    World& world_;
    std::uint32_t index_;
    std::uint64_t first_ = 0;
    std::uint64_t next_ = 0;
    struct Leased {
        std::uint64_t position;
        std::uint64_t block;
        std::uint32_t row;
    } leased_{}, inherited_{};
};

}  // namespace model
