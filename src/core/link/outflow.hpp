// A stream at the writer's side: what its tap finds in the ring goes out over a channel.
#pragma once

#include <cstdint>

#include "link/channel.hpp"
#include "tap.hpp"

namespace ringcast::link {

class Outflow {
public:
    explicit Outflow(Tap& tap) : tap_(tap), batch_(kBatchBytes) {}

    enum class Pause {
        called,  // something else than a message woke it, or the ring has ended, or it has gone on for long enough
        idle,    // nothing has come for `idle_ns`
    };
    // Sends what there is and what comes, until there is a reason to look at something else. Throws ChannelEnded, and Error
    // if the seat or the ring's memory is not what it was.
    Pause run(Channel& channel, std::int64_t busy_ns, std::int64_t idle_ns);

private:
    void send_next(Channel& channel);
    void send_large(Channel& channel, const Receiver::Message& message);

    Tap& tap_;
    Batch batch_;
};

// Reads what comes over a control connection, and takes acknowledgements, until there is something else to be read, which is
// true, or the time is over. Throws ChannelEnded, and Error for an acknowledgement that cannot be.
bool hear_acknowledgements(Channel& channel, Tap& tap, std::int64_t until_ns);

}  // namespace ringcast::link
