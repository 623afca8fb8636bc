// A tap: the end by which a link reads a ring for another machine.
//
// It reads ahead: a message is taken when it is sent, but its slot and its block are the link's until the other machine
// says that it has published it there (`acknowledge`). So the ring is the window, what is under way counts as unread, and
// after a cut the link goes back to where the other machine is (`go_back`). The writer never evicts a tap's seat while its
// holder may be reading: a link that gives up says so first (`fail`).
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "board.hpp"
#include "endpoint.hpp"
#include "lease.hpp"
#include "receiver.hpp"
#include "ring.hpp"

namespace ringcast {

struct TapClaim {
    std::uint32_t seat;
    std::uint64_t first;
    bool kept;  // everything was, from `first` on, for whoever comes
};

// Takes a seat that is kept for readers on other machines, if the one who comes is `promised` it, else a spare one, from the
// next message on. Throws rank_taken.
TapClaim claim_tap(const Segment& segment, bool promised = true);

// What precedes a message in a batch of them, as it travels.
struct BatchHead {
    std::uint32_t length;
    Encoding encoding;
    std::uint8_t framed;
    std::uint16_t zero;
};
static_assert(sizeof(BatchHead) == 8);

// Messages that travel together, in pieces.
class Batch {
public:
    explicit Batch(std::size_t most) : most_(most), own_(new std::byte[most]) {}

    void clear() noexcept {
        pieces_.clear();
        bytes_ = own_bytes_ = 0;
    }
    std::span<const std::span<const std::byte>> pieces() const noexcept { return pieces_; }
    bool empty() const noexcept { return bytes_ == 0; }
    std::size_t room() const noexcept { return most_ - bytes_; }
    void add(const BatchHead& head, const std::byte* bytes);

private:
    void add_own(const std::byte* bytes, std::size_t length);

    std::size_t most_;
    std::size_t bytes_ = 0;
    std::size_t own_bytes_ = 0;
    std::unique_ptr<std::byte[]> own_;
    std::vector<std::span<const std::byte>> pieces_;
};

class Tap : public Endpoint {
public:
    Tap(std::shared_ptr<Segment> segment, const Strategy& strategy, const TapClaim& claim);
    ~Tap() { shut_down(); }

    const TapClaim& claim() const noexcept { return claim_; }
    // The next message to be taken, and the first that the other machine has not said it has.
    std::uint64_t position() const noexcept {
        const std::lock_guard guard(mutex_);
        return ring_.cursor();
    }
    std::uint64_t acknowledged() const noexcept {
        const std::lock_guard guard(mutex_);
        return acknowledged_;
    }

    // Takes messages that are there, each with its head, as long as they fit into the batch and are shorter than `longest`.
    // What they are made of is the batch's own memory and the ring's, where a message stays until it is acknowledged.
    // Throws corrupt.
    void gather(Batch& batch, std::uint64_t longest);
    // The next message, if it is there; it is taken by `take`.
    std::optional<Receiver::Message> peek();
    void take();
    // What was read until now is whole. Throws corrupt.
    void check() const;

    // The other machine has published what comes before `position`. False if that cannot be.
    bool acknowledge(std::uint64_t position) noexcept;
    void go_back() noexcept;

    // True if there is a message, an end, or an order; false when the time is over.
    bool await(std::int64_t until_ns);
    bool readable() const noexcept { return ring_.readable(); }
    // Why nothing more will come, once everything has been taken. Asks the kernel if `look_at_life`.
    Ending ending(bool look_at_life) const;
    bool all_ready() const noexcept {
        return segment_->ring().control->all_ready.load(std::memory_order_acquire) == 1;  // acquire [ready]
    }
    // Before `shut_down`: the readers are lost, and the writer will hear of it.
    void fail() noexcept { failed_ = true; }
    void drop_chunk() noexcept override {}

private:
    struct Taken {
        std::uint64_t position;
        std::uint32_t row;
    };
    Receiver::Message current();
    std::uint32_t orders() const noexcept;
    bool something() const noexcept;
    void finish() noexcept override;

    TapClaim claim_;
    mutable std::mutex mutex_;  // one thread takes messages, another acknowledges them
    RingReader<Native> ring_;
    std::deque<Taken> blocks_;  // taken and not acknowledged, of those in blocks
    std::uint64_t acknowledged_;
    std::uint32_t orders_seen_ = 0;
    bool ready_seen_ = false;
    bool failed_ = false;
    bool left_ = false;  // nothing of the seat is touched any more, and nothing is taken
};

}  // namespace ringcast
