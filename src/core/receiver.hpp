// A reader's end: a seat, and the messages from its join position on.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "endpoint.hpp"
#include "lease.hpp"
#include "ring.hpp"

namespace ringcast {

struct Claim {
    std::uint32_t seat;
    std::uint32_t rank;
    std::uint64_t first;
    std::uint64_t skipped;  // messages that were kept for the rank and that this reader did not ask for
    bool evicted;           // the writer gave up waiting for this rank's reader before it came
};

// Takes a seat for `rank`, to read on where its promise or its dead predecessor was. With no rank given, for the lowest
// free one; of a named queue, of those that are promised nothing if there are such, and to read the next message. Throws rank_unknown, rank_taken.
Claim claim_seat(const Segment& segment, std::optional<std::uint32_t> rank);

class Receiver : public Endpoint {
public:
    Receiver(std::shared_ptr<Segment> segment, const Strategy& strategy, const Claim& claim);
    ~Receiver() { shut_down(); }

    // A message that lies in shared memory, bounds checked. Valid until `consume`, or for as long as it is leased.
    struct Message {
        const std::byte* bytes;
        std::uint64_t length;
        std::uint64_t block;  // kInline if it is in its slot
        std::uint32_t row;
        Encoding encoding;
        bool framed;
        bool in_block() const noexcept { return block != kInline; }
    };

    bool readable() const noexcept { return ring_.readable(); }
    std::uint64_t position() const noexcept { return ring_.cursor(); }  // of the next message
    // The message that a descriptor, which is read once and not looked at again, tells of; none if it is impossible.
    static std::optional<Message> checked(const Segment& segment, NativeSlot& slot, const Descriptor& d) noexcept {
        const Geometry& geometry = segment.geometry();
        const bool is_inline = d.block == kInline;
        const bool lies_inside = is_inline
                                     ? d.length <= geometry.inline_bytes
                                     : d.block <= geometry.data_bytes && d.length <= geometry.data_bytes - d.block &&
                                           d.length <= geometry.data_budget && d.row < geometry.max_leases;
        if (!lies_inside || d.encoding > kLastEncoding || d.framed > 1) [[unlikely]]
            return std::nullopt;
        const std::byte* bytes = is_inline ? RingView<Native>::inline_area(slot) : segment.data() + d.block;
        return Message{bytes, d.length, d.block, d.row, d.encoding, d.framed != 0};
    }
    // Only if readable; throws corrupt, reader_evicted.
    Message current() {
        NativeSlot& slot = ring_.slot();
        Descriptor d;
        std::memcpy(&d, &slot.descriptor, sizeof d);
        reached(FaultPoint::read_described);
        const std::optional<Message> message = checked(*segment_, slot, d);
        if (!message) throw_corrupt(d);
        // A block is this reader's from here on only if the descriptor was whole.
        if (message->in_block() && !ring_.touch_block(d.row)) throw_evicted();
        return *message;
    }
    // The current message has been copied.
    void consume(const Message& message) noexcept {
        if (message.in_block()) mark_done(segment_->ring(), claim_.seat, message.row, mark_of(ring_.cursor()));
        advance(message.length);
    }
    // A lease on the current message, which is in a block. It is read for as long as the lease lives, and it is still the
    // current one until `advance`, which must follow: a block is leased once.
    Lease peek_leased(const Message& message, Lease::Through through) noexcept {
        peeked_ = true;
        return Lease(hold_, Lease::Block{message.block, message.length, ring_.cursor(), message.row, through});
    }
    Lease consume_leased(const Message& message, Lease::Through through) noexcept {
        Lease lease = peek_leased(message, through);
        advance(message.length);
        return lease;
    }
    // Where the current message, which is in a block, can be viewed for as long as anybody likes, and changed in place by
    // whoever will; null if it is to be copied: it has no pages of its own, or what is there shows it not, or, unless
    // `however_many`, so much is viewed already that the writer could not go on.
    std::byte* view(const Message& message, bool however_many) const noexcept {
        PrivateData* data = segment_->private_data();
        if (data == nullptr || message.length < kOwnPagesBytes || (!however_many && views_enough(message.length)))
            return nullptr;
        return data->open(message.block, message.length, ring_.cursor());
    }
    void advance(std::uint64_t length) noexcept {
        bytes_.store(bytes_.load(std::memory_order_relaxed) + length, std::memory_order_relaxed);
        peeked_ = false;
        ring_.consume();
        messages_.store(messages_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }
    // A chunk is open on the current message, which has been leased or copied, and stays the current one until then.
    void open_chunk(const Message& message) noexcept { chunk_ = message; }
    // It has been read, unless the reader fails.
    void drop_chunk() noexcept override {
        const std::optional<Message> chunk = std::exchange(chunk_, std::nullopt);
        if (!chunk || failed_.load(std::memory_order_relaxed)) return;
        if (peeked_)
            advance(chunk->length);
        else
            consume(*chunk);
    }
    // After the copies and before anybody sees them. Throws reader_evicted.
    void settle() {
        if (!ring_.settle()) throw_evicted();
    }
    // Before `shut_down`: the seat will be given up as if this process had been killed, and not in order.
    // So many messages that were taken from the ring will be read by nobody.
    void note_lost(std::uint64_t messages) const noexcept;
    void fail() noexcept { failed_.store(true, std::memory_order_relaxed); }
    // Evicted? Or did the writer end the queue, or die, with everything read? Throws reader_evicted, closed,
    // writer_died. `look_at_life` asks the kernel, too.
    void check_end(bool look_at_life);
    void check_writer_lives();  // throws writer_died, whatever is left to read

    bool await_message_briefly() noexcept {
        return waiter_.briefly([this] { return message_or_end(); });
    }
    bool await_message(std::int64_t until_ns) noexcept {
        return waiter_.slice(parked_, 1, until_ns, [this] { return message_or_end() || roused(); });
    }
    bool writer_closed() const noexcept { return ending() != Ending::none; }
    Ending ending() const noexcept {
        return static_cast<Ending>(
            segment_->ring().control->closed.load(std::memory_order_acquire));  // acquire [closed]
    }
    bool all_ready() const noexcept {
        return segment_->ring().control->all_ready.load(std::memory_order_acquire) == 1;  // acquire [ready]
    }
    bool await_all_ready(std::int64_t until_ns) noexcept {
        return waiter_.slice(parked_, 1, until_ns,
                             [this] { return stopped() || all_ready() || writer_closed() || !ring_.still_seated(); });
    }
    // The seat's, for who must know of its holder what outlives the end.
    const std::shared_ptr<SeatHold>& hold() const noexcept { return hold_; }
    std::uint32_t rank() const noexcept { return claim_.rank; }
    std::uint32_t seat() const noexcept { return claim_.seat; }
    std::uint64_t messages() const noexcept { return messages_.load(std::memory_order_relaxed); }
    std::uint64_t bytes() const noexcept { return bytes_.load(std::memory_order_relaxed); }
    std::uint64_t backlog() const noexcept;

private:
    bool message_or_end() const noexcept {
        return ring_.readable() || stopped() || writer_closed() || !ring_.still_seated();
    }
    // A writer closes the queue before it drops its lock, so the lock is asked first.
    bool writer_died() const { return !segment_->creator_alive() && !writer_closed(); }
    bool views_enough(std::uint64_t bytes) const noexcept;
    NativeSeat& home() const noexcept;  // the rank's own seat
    [[noreturn]] void throw_writer_died();
    [[noreturn]] void throw_origin_lost(Ending why);
    [[noreturn]] void throw_evicted() const;
    [[noreturn]] void throw_corrupt(const Descriptor& descriptor) const;
    void finish() noexcept override;  // leaves the seat

    Claim claim_;
    std::shared_ptr<SeatHold> hold_;
    RingReader<Native> ring_;
    bool peeked_ = false;  // the current message is leased
    std::atomic<bool> failed_{false};
    std::optional<Message> chunk_;  // the current message, while a chunk is open on it
    std::atomic<std::uint64_t> messages_{0};
    std::atomic<std::uint64_t> bytes_{0};
};

}  // namespace ringcast
