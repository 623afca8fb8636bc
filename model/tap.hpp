// The end by which a link reads a ring for another machine, and that machine's link: what Tap, and the streams over it, do
// with the headers. The wire is a queue of messages that a cut empties; the other link publishes what is next, and lets
// what it has already pass by.
//
// Checked here: each message is whole and the next one, before a cut and after it; the seat is never taken away while
// its holder may read, so that a race is a violation here, of slots as well.
#pragma once

#include <optional>

#include "ends.hpp"

namespace model {

class Tap {
public:
    Tap(World& world, std::uint32_t seat) : world_(world), index_(seat) {}

    // As claim_tap, of one seat: again if the writer has changed it meanwhile.
    void claim();
    // A reader elsewhere is there, and reads through this seat.
    void place(std::uint32_t index);
    // Who was expected in this seat reads through a stream's; in any process.
    static void forgo(World& world, std::uint32_t home);
    // Takes so many messages, or those there are until the queue ends. False: it has ended.
    bool take(std::uint64_t count);
    // The other machine has published so many.
    void acknowledge(std::uint64_t position);
    // Sends so many over the wire, which is cut once meanwhile.
    void send_over_wire(std::uint64_t count);
    // The other link: some may have arrived, and been published, when the wire is cut, and nobody has heard of it.
    static void publish_elsewhere(World& world, std::uint64_t count);
    // Waits until the writer wishes that a reader elsewhere be passed over.
    void await_order();
    void leave(bool in_order);
    std::uint64_t position() const { return position_; }

private:
    static void acknowledge(World& world, ringcast::RingReader<Policy>& ring, std::uint64_t position);
    static void publish_arrived(World::Wire& wire);
    bool something() const;
    bool await_message();
    std::uint64_t read();
    void go_on();
    std::uint32_t orders() const;

    World& world_;
    std::uint32_t index_;
    std::optional<ringcast::RingReader<Policy>> ring_;
    std::uint64_t position_ = 0;
    std::uint32_t orders_seen_ = 0;
    World::Block block_{};  // of the message that was read last
};

}  // namespace model
