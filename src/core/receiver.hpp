// A reader's end: a seat, and the messages from its join position on.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "endpoint.hpp"
#include "ring.hpp"

namespace ringcast {

struct Claim {
    std::uint32_t seat;
    std::uint32_t rank;
    std::uint64_t first;
};

// Takes a seat for `rank`, or for the lowest free rank if none is given. Throws rank_unknown, rank_taken.
Claim claim_seat(const Segment& segment, std::optional<std::uint32_t> rank);

class Receiver : public Endpoint {
public:
    Receiver(std::shared_ptr<Segment> segment, const Strategy& strategy, const Claim& claim);
    ~Receiver() { shut_down(); }

    // The bytes of a message that lies in shared memory, bounds checked. Valid until `consume`.
    struct Message {
        const std::byte* bytes;
        std::uint64_t length;
        std::uint32_t n_frames;
        Encoding encoding;
    };

    bool readable() const noexcept { return ring_.readable(); }
    // Only if readable; throws corrupt. The descriptor is read once, checked, and not looked at again.
    Message current() const {
        NativeSlot& slot = ring_.slot();
        Descriptor d;
        std::memcpy(&d, &slot.descriptor, sizeof d);
        const Geometry& geometry = segment_->geometry();
        const bool is_inline = d.block == kInline;
        const bool lies_inside = is_inline ? d.length <= geometry.inline_bytes
                                           : d.length <= geometry.max_chunk_bytes && d.block <= geometry.data_bytes &&
                                                 d.length <= geometry.data_bytes - d.block;
        const std::uint64_t table = d.n_frames > 1 ? std::uint64_t{d.n_frames} * 8 : 0;
        if (!lies_inside || table > d.length || d.n_frames == 0 || d.encoding > Encoding::object) throw_corrupt(d);
        const std::byte* bytes = is_inline ? RingView<Native>::inline_area(slot) : segment_->data() + d.block;
        return Message{bytes, d.length, d.n_frames, d.encoding};
    }
    void consume(std::uint64_t length) noexcept {
        bytes_.store(bytes_.load(std::memory_order_relaxed) + length, std::memory_order_relaxed);
        ring_.consume();
        messages_.store(messages_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }
    // After the copies and before anybody sees them. Throws reader_evicted.
    void settle() {
        if (!ring_.settle()) throw_evicted();
    }
    // Evicted? Or did the writer end the queue, or die, with everything read? Throws reader_evicted, closed,
    // writer_died. `look_at_life` asks the kernel, too.
    void check_end(bool look_at_life) const;
    void check_writer_lives() const;  // throws writer_died, whatever is left to read

    bool await_message_briefly() noexcept {
        return waiter_.briefly([this] { return message_or_end(); });
    }
    bool await_message(std::int64_t until_ns) noexcept {
        return waiter_.slice(parked_, 1, until_ns, [this] { return message_or_end(); });
    }
    bool writer_closed() const noexcept {
        return segment_->ring().control->closed.load(std::memory_order_acquire) == 1;  // acquire [closed]
    }
    bool all_ready() const noexcept {
        return segment_->ring().control->all_ready.load(std::memory_order_acquire) == 1;  // acquire [ready]
    }
    bool await_all_ready(std::int64_t until_ns) noexcept {
        return waiter_.slice(parked_, 1, until_ns,
                             [this] { return stopped() || all_ready() || writer_closed() || !ring_.still_seated(); });
    }
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
    [[noreturn]] void throw_writer_died() const;
    [[noreturn]] void throw_evicted() const;
    [[noreturn]] void throw_corrupt(const Descriptor& descriptor) const;
    void finish() noexcept override;  // leaves the seat

    Claim claim_;
    RingReader<Native> ring_;
    std::atomic<std::uint64_t> messages_{0};
    std::atomic<std::uint64_t> bytes_{0};
};

}  // namespace ringcast
