// The writer's end: reserve room, fill it, publish.
//
// From `try_reserve` to `commit` nothing is visible to anybody; a reservation that is not committed is simply
// forgotten.
#pragma once

#include <cstdint>
#include <vector>

#include "byte_fifo.hpp"
#include "endpoint.hpp"
#include "ring.hpp"

namespace ringcast {

class Sender : public Endpoint {
public:
    Sender(std::shared_ptr<Segment> segment, const Strategy& strategy);
    ~Sender() { shut_down(); }

    struct Room {
        std::byte* bytes = nullptr;
        std::uint64_t length = 0;
        std::uint64_t block = kInline;
    };

    // Room for the next message. False: it must be waited for. Throws message_too_large, capacity.
    bool try_reserve(std::uint64_t bytes, Room& room) {
        const Geometry& geometry = segment_->geometry();
        if (bytes > geometry.max_chunk_bytes) throw_too_large(bytes);
        const std::uint64_t for_slot = ring_.needed_for_slot();
        if (!ring_.passed(for_slot)) {
            needed_ = for_slot;
            return false;
        }
        room.length = bytes;
        if (bytes <= geometry.inline_bytes) {
            room.block = kInline;
            room.bytes = RingView<Native>::inline_area(ring_.slot());
            return true;
        }
        if (!place_block(bytes, room.block)) return false;
        room.bytes = segment_->data() + room.block;
        return true;
    }
    // Publishes what was written into the room; wakes readers unless `announce_later`.
    void commit(const Room& room, Encoding encoding, std::uint32_t n_frames, bool announce_later = false) {
        if (room.block != kInline) blocks_.take(room.block, room.length, ring_.position());
        bytes_ += room.length;
        segment_->ring().control->bytes_published.store(bytes_, std::memory_order_relaxed);
        ring_.publish(Descriptor{room.length, room.block, n_frames, encoding, {}});
        if (!announce_later) ring_.announce();
        if (nameless_ && ring_.position() % kLookForReaders == 1) unlink_if_all_attached();
    }
    void announce() noexcept { ring_.announce(); }

    // After a refused `try_reserve`: true if trying again makes sense.
    bool await_room_briefly() noexcept {
        return waiter_.briefly([this] { return room_or_stopped(); });
    }
    bool await_room(std::int64_t until_ns) noexcept {
        return waiter_.slice(parked_, ring_.laggard() + 1, until_ns, [this] { return room_or_stopped(); });
    }
    // Throws reader_died if the reader that is waited for is dead.
    void check_laggard() const;
    std::uint32_t laggard_rank() const noexcept;
    std::uint32_t laggard_pid() const noexcept;  // 0: it has not attached yet

    // Ranks that have not taken their seats.
    std::vector<std::uint32_t> missing_ranks() const;
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

private:
    void finish() noexcept override;  // nothing will be published any more: readers read what there is, then learn it
    static constexpr std::uint64_t kLookForReaders =
        16;  // in messages, until all readers of a nameless queue are there

    // A queue without a user's name gives up its segment's name as soon as nobody needs it any more.
    void unlink_if_all_attached();
    [[noreturn]] void throw_too_large(std::uint64_t bytes) const;
    bool place_block(std::uint64_t bytes, std::uint64_t& offset);
    bool room_or_stopped() const noexcept { return stopped() || ring_.seat_passed(ring_.laggard(), needed_); }

    RingWriter<Native> ring_;
    bool nameless_;  // and its segment not unlinked yet
    ByteFifo blocks_;
    std::uint64_t committed_ = 0;  // bytes of the data part that memory is reserved for
    std::uint64_t needed_ = 0;     // how far the laggard must have come
    std::uint64_t bytes_ = 0;
    std::uint64_t page_;
};

}  // namespace ringcast
