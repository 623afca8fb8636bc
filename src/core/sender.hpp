// The writer's end: reserve room, fill it, publish.
//
// From `try_reserve` to `commit` nothing is visible to anybody; a reservation that is not committed is simply
// forgotten.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "arena.hpp"
#include "endpoint.hpp"
#include "ring.hpp"

namespace ringcast {

// What a writer does about readers that are in its way.
struct ReaderPolicy {
    enum class Dead { raise, evict };
    enum class Slow { block, raise, evict };
    Dead dead = Dead::raise;
    Slow slow = Slow::block;
    std::int64_t patience_ns = 0;  // how long a living reader may be waited for before `slow` applies
};

// A reader that the writer does not wait for any more.
struct Eviction {
    enum class Cause { dead, slow, absent };  // absent: it never attached
    std::uint32_t rank;
    std::uint32_t pid;  // 0 if it never attached
    Cause cause;
    std::uint64_t behind;  // messages it had not read
};

class Sender : public Endpoint {
public:
    Sender(std::shared_ptr<Segment> segment, const Strategy& strategy, const ReaderPolicy& policy);
    ~Sender() { shut_down(); }

    struct Room {
        std::byte* bytes = nullptr;
        std::uint64_t length = 0;
        bool in_block = false;
        Arena::Place place{};
    };

    // Room for the next message. False: it must be waited for. Throws message_too_large, capacity.
    bool try_reserve(std::uint64_t bytes, Room& room) {
        reached(FaultPoint::reserve_begin);
        const Geometry& geometry = segment_->geometry();
        if (reserved_) cancel();  // an exception came between reserving and publishing
        const std::uint64_t for_slot = ring_.needed_for_slot();
        if (!ring_.passed(for_slot)) {
            if (bytes > geometry.inline_bytes) check_size(bytes);
            needed_ = for_slot;
            awaits_block_ = false;
            return false;
        }
        room.length = bytes;
        room.in_block = bytes > geometry.inline_bytes;
        if (!room.in_block) {
            room.bytes = RingView<Native>::inline_area(ring_.slot());
            return true;
        }
        return place_block(bytes, room);
    }
    // Publishes what was written into the room; wakes readers unless `announce_later`. `loan` is not 0 if a view of
    // this process may be on the room's block for longer: see `end_loan`.
    void commit(const Room& room, Encoding encoding, bool framed, bool announce_later = false, std::uint64_t loan = 0) {
        reached(FaultPoint::commit_begin);
        bytes_ += room.length;
        segment_->ring().control->bytes_published.store(bytes_, std::memory_order_relaxed);
        Descriptor descriptor{room.length, kInline, 0, encoding, framed, {}};
        if (room.in_block) {
            descriptor.block = room.place.offset;
            descriptor.row = room.place.row;
            arena_.publish(room.place, ring_.position(), loan);
            reached(FaultPoint::block_unread);
            reserved_ = false;
            if (room.length > segment_->geometry().max_chunk_bytes) count_oversize();
        }
        ring_.publish(descriptor);
        if (!announce_later) ring_.announce();
        if (nameless_ && ring_.position() % kLookForReaders == 1) unlink_if_all_attached();
        if (arena_.memory() != 0 && ring_.position() % kLookForIdleMemory == 0) give_back_idle();
    }
    // Takes back what was reserved and not published.
    void cancel() noexcept {
        if (reserved_) arena_.cancel(open_place_);
        reserved_ = false;
    }
    // A number for a view of the writer's own on a reserved block. Until `end_loan` the block is not used again.
    std::uint64_t new_loan() noexcept { return ++loans_; }
    // Instead of `cancel`, if the view lives on.
    void abandon(const Room& room, std::uint64_t loan) {
        arena_.abandon(room.place, loan);
        reserved_ = false;
    }
    // From any thread; takes no turn.
    static void end_loan(const Segment& segment, std::uint32_t row, std::uint64_t loan) noexcept {
        mark_done(segment.ring(), segment.ring().n_seats, row, loan);
        Native::fence_seq_cst();  // [signal] for the mark
        unpark<Native>(segment.ring().control->writer_parked);
    }
    void announce() noexcept { ring_.announce(); }

    // After a refused `try_reserve`: true if trying again makes sense.
    bool await_room_briefly() noexcept {
        return waiter_.briefly([this] { return room_or_stopped(); });
    }
    bool await_room(std::int64_t until_ns) noexcept {
        // Any reader's release may make room for a block; a slot waits for one reader's cursor.
        const std::uint32_t token = awaits_block_ ? kAnySeat : ring_.laggard() + 1;
        return waiter_.slice(parked_, token, until_ns, [this] { return room_or_stopped(); });
    }
    // Takes the blocks back that the dead held, and looks at the reader that is waited for since `waited_ns`: if it is
    // dead, or has been waited for too long, evicts it, as the policy says, or throws reader_died or queue_full.
    std::optional<Eviction> check_room(std::int64_t waited_ns);
    // When, in a wait that began then, `check_room` is due at the latest.
    std::int64_t patience_end(std::int64_t began_ns) const noexcept {
        if (policy_.slow == ReaderPolicy::Slow::block || policy_.patience_ns >= kForever - began_ns) return kForever;
        return began_ns + policy_.patience_ns;
    }
    // What is waited for, and who is in the way.
    std::string explain_wait() const;
    // Ranks that have not taken their seats.
    std::vector<std::uint32_t> missing_ranks() const;
    // An attached reader that died: evicts it, as the policy says, or throws reader_died.
    std::optional<Eviction> check_attached();
    bool await_readers(std::int64_t until_ns) noexcept;
    // Tells the readers that all are there, and removes the name of a queue that has none from the user.
    void confirm_ready();

    // Messages that ranks which have not come yet would still get.
    std::uint64_t undelivered_to_expected() const noexcept;
    bool await_expected(std::int64_t until_ns) noexcept;
    bool evict(std::uint32_t rank) noexcept;

    std::uint64_t messages() const noexcept { return segment_->ring().control->head.load(std::memory_order_relaxed); }
    std::uint64_t bytes() const noexcept {
        return segment_->ring().control->bytes_published.load(std::memory_order_relaxed);
    }
    // Messages that the slowest gating reader has not read.
    std::uint64_t backlog() const noexcept;
    // Frees what nobody reads any more, for statistics that are up to date. Needs the turn.
    void reclaim();
    std::uint64_t scattered_bytes() const noexcept { return arena_.scattered_bytes(); }

private:
    void finish() noexcept override;  // nothing will be published any more: readers read what there is, then learn it
    static constexpr std::uint64_t kLookForReaders = 16;      // in messages, until all of a nameless queue are there
    static constexpr std::uint64_t kLookForIdleMemory = 256;  // in messages

    // A queue without a user's name gives up its segment's name as soon as nobody needs it any more.
    void unlink_if_all_attached();
    void check_size(std::uint64_t bytes) const;  // throws message_too_large
    bool place_block(std::uint64_t bytes, Room& room);
    void give_back_idle();
    void count_oversize() noexcept;
    // Is its holder dead, with `word` as its state?
    bool has_died(std::uint32_t seat, std::uint64_t word) const;
    std::optional<Eviction> drop_dead(std::uint32_t seat, std::uint64_t word);
    std::optional<Eviction> evict_seat(std::uint32_t seat, std::uint64_t word, Eviction::Cause cause) noexcept;
    bool room_or_stopped() const noexcept {
        if (stopped()) return true;
        if (!awaits_block_) return ring_.seat_passed(ring_.laggard(), needed_);
        return reclaimed_ || arena_.may_have_room([this](std::uint64_t position) {
            return ring_.seat_passed(ring_.laggard(), position + 1);
        });
    }

    ReaderPolicy policy_;
    RingWriter<Native> ring_;
    bool nameless_;  // and its segment not unlinked yet
    Arena arena_;
    bool reserved_ = false;  // open_place_ is reserved and not published
    Arena::Place open_place_{};
    std::uint64_t needed_ = 0;   // how far the laggard must have come
    bool awaits_block_ = false;  // it is a block that is waited for, not a slot
    bool reclaimed_ = false;     // during that wait, blocks of the dead have come back
    std::uint64_t wanted_ = 0;   // its bytes
    std::uint64_t bytes_ = 0;
    std::uint64_t loans_ = 0;
};

}  // namespace ringcast
