// The writer's end: reserve room, fill it, publish.
//
// From `try_reserve` to `commit` nothing is visible to anybody; a reservation that is not committed is simply
// forgotten.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arena_keeper.hpp"
#include "board.hpp"
#include "endpoint.hpp"
#include "loan.hpp"
#include "reader_policy.hpp"
#include "readiness.hpp"
#include "ring.hpp"

namespace ringcast {

// What a writer that found no room waits for.
struct RoomWait {
    std::int64_t since_ns = 0;         // by the monotonic clock; 0: there is no such wait
    bool for_block = false;            // for memory, not for a slot
    std::uint64_t passed = 0;          // for a slot: how far every reader must have come
    std::uint64_t bytes = 0;           // of the message
    std::uint64_t frees = 0;           // for a block: how many had come back; more have when there are more
    std::int64_t retry_ns = kForever;  // when to try again, whatever has been heard since
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
            refuse(RoomWait{.passed = for_slot, .bytes = bytes});
            return false;
        }
        room.length = bytes;
        room.in_block = bytes > geometry.inline_bytes;
        if (!room.in_block) {
            wait_.since_ns = 0;
            room.bytes = RingView<Native>::inline_area(ring_.slot());
            return true;
        }
        return place_block(bytes, room);
    }
    // Publishes what was written into the room; wakes readers unless `announce_later`. `loan` is not 0 if a view of
    // this process may be on the room's block for longer.
    void commit(const Room& room, Encoding encoding, bool framed, bool announce_later = false, std::uint64_t loan = 0) {
        reached(FaultPoint::commit_begin);
        bytes_ += room.length;
        segment_->ring().control->bytes_published.store(bytes_, std::memory_order_relaxed);
        Descriptor descriptor{room.length, kInline, 0, encoding, framed, {}};
        if (room.in_block) {
            descriptor.block = room.place.offset;
            descriptor.row = room.place.row;
            arena_.lock()->publish(room.place, ring_.position(), loan);
            reached(FaultPoint::block_unread);
            reserved_ = false;
            if (room.length > segment_->geometry().max_chunk_bytes) count_oversize();
        }
        if (encoding != Encoding::raw) note_encoding(encoding);
        ring_.publish(descriptor);
        if (!announce_later) ring_.announce();
    }
    // What readers that come need to decode, so that they are ready for it: of a message, or of something within one.
    void note_encoding(Encoding encoding) noexcept {
        if (has_sent(encoding)) [[likely]]
            return;
        encodings_ |= 1u << static_cast<unsigned>(encoding);
        segment_->ring().control->encodings_sent.store(encodings_, std::memory_order_relaxed);
    }
    bool has_sent(Encoding encoding) const noexcept { return (encodings_ >> static_cast<unsigned>(encoding) & 1) != 0; }
    // Takes back what was reserved and not published.
    void cancel() noexcept {
        if (reserved_) arena_.lock()->cancel(open_place_);
        reserved_ = false;
    }
    // For the buffer of a chunk over the room; null if that is not in a block.
    std::shared_ptr<Loan> make_loan(const Room& room) {
        return room.in_block ? std::make_shared<Loan>(segment_, room.place.row, ++loans_) : nullptr;
    }
    // The room becomes an open chunk's, to be ended by `publish_chunk` or `drop_chunk`.
    void open_chunk(const Room& room, std::shared_ptr<Loan> loan) noexcept {
        chunk_.emplace(Chunk{room, std::move(loan)});
    }
    const Room& chunk_room() const noexcept { return chunk_->room; }
    // `views_live`: the block is kept until they are gone.
    void publish_chunk(Encoding encoding, bool views_live) {
        const Chunk chunk = *std::exchange(chunk_, std::nullopt);
        const bool kept = chunk.loan != nullptr && views_live;
        commit(chunk.room, encoding, false, false, kept ? chunk.loan->number() : 0);
        if (kept) chunk.loan->keep();
    }
    // Views may live: the block comes back when they are gone.
    void drop_chunk() noexcept override {
        if (!chunk_) return;
        if (chunk_->loan != nullptr) {
            arena_.lock()->abandon(chunk_->room.place, chunk_->loan->number());
            chunk_->loan->keep();
            reserved_ = false;
        }
        cancel();
        chunk_.reset();
    }
    void announce() noexcept { ring_.announce(); }
    // Of a relay, before `shut_down`: why its source sends no more.
    void note_ending(Ending why, const std::string& reason) noexcept {
        ending_ = why;
        std::strncpy(segment_->ring().control->reason, reason.c_str(), kReasonBytes - 1);
    }

    // After a refused `try_reserve`: true if trying again makes sense.
    bool await_room_briefly() noexcept {
        return waiter_.briefly([this] { return room_or_stopped(); });
    }
    bool await_room(std::int64_t until_ns) noexcept {
        // Any reader's release may make room for a block; a slot waits for one reader's cursor.
        const std::uint32_t token = wait_.for_block ? kAnySeat : ring_.laggard() + 1;
        // Once the patience is over, whoever is still in the way goes when another process says so.
        if (!patience_over()) until_ns = std::min(until_ns, patience_end());
        return waiter_.slice(parked_, token, std::min(until_ns, wait_.retry_ns), [this] {
            return room_or_stopped();
        }) || (wait_.retry_ns != kForever && platform::monotonic_ns() >= wait_.retry_ns);
    }
    // Takes the blocks back that the dead held, and looks at the reader that is waited for: if it is gone, or has been
    // waited for too long, evicts it, as the policy says, or throws reader_died or queue_full. `waits`: for a call that does.
    std::optional<Eviction> check_room(bool waits);
    // After a refused `try_reserve`: since when the writer has found no room, in however many calls.
    std::int64_t waiting_since_ns() const noexcept { return wait_.since_ns; }
    bool patience_over() const noexcept {
        const std::int64_t end = patience_end();
        return end != kForever && platform::monotonic_ns() >= end;
    }
    // Did blocks come back since the last refused `try_reserve`?
    bool reclaimed() const noexcept { return wait_.for_block && arena_.lock()->frees() != wait_.frees; }
    // After a refused `try_reserve`: has this very process all memory, by views of its own chunks?
    bool only_loans_in_the_way() const {
        if (!wait_.for_block || wait_.retry_ns != kForever) return false;
        const auto arena = arena_.lock();
        return arena->loaned_blocks() == arena->blocks();
    }
    // What is waited for, and who is in the way.
    std::string explain_wait(platform::Detail detail) const;

    ReaderWatch& readers() noexcept { return readers_; }

    // Does every rank have a reader, and every other reader that is wanted come from another machine?
    bool ready() const noexcept {
        return all_have_readers(segment_->ring(), segment_->ranks()) && all_placed(segment_->ring());
    }
    bool await_ready(std::int64_t until_ns) noexcept {
        return waiter_.slice(parked_, kAnySeat, until_ns, [this] { return stopped() || ready(); });
    }
    void confirm_ready() {
        ringcast::confirm_ready(segment_->ring(), ring_);
        refresh_placement();
    }

    // Messages that a rank which has not come yet, or another machine, would still get; after `shut_down`.
    std::uint64_t undelivered() const noexcept {
        return std::max(kept_for_expected(segment_->ring(), segment_->ring().n_seats), under_way(segment_->ring()));
    }
    // The same of what can still come to them: nothing comes to another machine once the link is gone. Asks the kernel.
    std::uint64_t deliverable() const {
        return undelivered() != 0 && readers_.link_is_gone()
                   ? kept_for_expected(segment_->ring(), segment_->ring().n_local)
                   : undelivered();
    }
    bool await_delivery(std::int64_t until_ns) noexcept {
        return waiter_.slice(parked_, kAnySeat, until_ns, [this] { return undelivered() == 0; });
    }

    std::uint64_t messages() const noexcept { return segment_->ring().control->head.load(std::memory_order_relaxed); }
    std::uint64_t bytes() const noexcept {
        return segment_->ring().control->bytes_published.load(std::memory_order_relaxed);
    }
    // Messages that the slowest gating reader has not read.
    std::uint64_t backlog() const noexcept;
    // Frees what nobody reads any more, for statistics that are up to date. Needs the turn.
    void reclaim();
    std::uint64_t scattered_bytes() const noexcept { return arena_.lock()->scattered_bytes(); }

private:
    void finish() noexcept override {
        end_queue(segment_->ring(), ring_, ending_);
        arena_.stop();
    }
    static constexpr std::int64_t kRetryNs = 50'000'000;  // a full machine's memory is looked at so often

    void check_size(std::uint64_t bytes) const;  // throws message_too_large
    bool place_block(std::uint64_t bytes, Room& room);
    void count_oversize() noexcept;
    void refuse(const RoomWait& wait) noexcept;
    void begin_room_wait() noexcept;
    std::optional<Eviction> deal_with_laggard(bool waits);
    // When `check_room` is due at the latest.
    std::int64_t patience_end() const noexcept {
        const ReaderPolicy& policy = readers_.policy();
        if (policy.slow == ReaderPolicy::Slow::block || policy.patience_ns >= kForever - wait_.since_ns)
            return kForever;
        return wait_.since_ns + policy.patience_ns;
    }
    bool room_or_stopped() const noexcept {
        if (stopped()) return true;
        if (!wait_.for_block) return ring_.seat_passed(ring_.laggard(), wait_.passed);
        const auto arena = arena_.lock();
        return arena->frees() != wait_.frees || arena->may_have_room([this](std::uint64_t position) {
            return ring_.seat_passed(ring_.laggard(), position + 1);
        });
    }

    RingWriter<Native> ring_;
    ReaderWatch readers_;
    ArenaKeeper arena_;
    RoomWait wait_{};                     // of the last refused try_reserve
    std::vector<std::uint64_t> holders_;  // by seat: its state when the wait began
    bool reserved_ = false;               // open_place_ is reserved and not published
    Arena::Place open_place_{};
    std::uint64_t bytes_ = 0;
    std::uint64_t loans_ = 0;
    std::uint32_t encodings_ = 0;  // as in Control
    Ending ending_ = Ending::closed;
    struct Chunk {
        Room room;
        std::shared_ptr<Loan> loan;
    };
    std::optional<Chunk> chunk_;  // the open one
};

}  // namespace ringcast
