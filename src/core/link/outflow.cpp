#include "link/outflow.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "platform/clock.hpp"

namespace ringcast::link {

Outflow::Pause Outflow::run(Channel& channel, std::int64_t busy_ns, std::int64_t idle_ns) {
    const std::int64_t busy_until = platform::monotonic_ns() + busy_ns;
    while (true) {
        if (!tap_.readable()) {
            if (tap_.ending(false) != Ending::none) return Pause::called;
            const bool found = tap_.await(platform::monotonic_ns() + idle_ns);
            tap_.check();
            if (!found) return Pause::idle;
            if (!tap_.readable()) return Pause::called;
        }
        send_next(channel);
        if (platform::monotonic_ns() >= busy_until) return Pause::called;
    }
}

void Outflow::send_next(Channel& channel) {
    batch_.clear();
    tap_.gather(batch_, kLargeBytes);
    if (!batch_.empty())
        channel.send(static_cast<std::uint8_t>(Kind::batch), batch_.pieces());
    else if (const auto message = tap_.peek())
        send_large(channel, *message);
}

void Outflow::send_large(Channel& channel, const Receiver::Message& message) {
    std::array<std::byte, Beginning::kBytes> beginning;
    std::memcpy(beginning.data(), &message.length, sizeof message.length);
    beginning[8] = static_cast<std::byte>(message.encoding);
    beginning[9] = static_cast<std::byte>(message.framed ? 1 : 0);
    channel.send(Kind::begin, beginning, true);
    for (std::uint64_t at = 0; at < message.length; at += kMaxRecord) {
        const std::uint64_t left = message.length - at;
        const bool more = left > kMaxRecord;
        if (!more) tap_.take();  // it may be acknowledged as soon as its last record is on its way
        channel.send(Kind::body, {message.bytes + at, std::min<std::uint64_t>(left, kMaxRecord)}, more);
    }
}

bool hear_acknowledgements(Channel& channel, Tap& tap, std::int64_t until_ns) {
    while (channel.await_record(until_ns)) {
        if (!channel.next_is(Kind::ack, sizeof(std::uint64_t))) return true;
        static_cast<void>(channel.next());
        std::uint64_t position;
        std::memcpy(&position, channel.read().data(), sizeof position);
        if (!tap.acknowledge(position))
            throw Error(ErrorCode::link, "the link at the other side acknowledges message " + std::to_string(position) +
                                             ", which it was not sent: " + std::to_string(tap.acknowledged()) +
                                             " were acknowledged, " + std::to_string(tap.position()) + " sent");
        if (platform::monotonic_ns() >= until_ns) break;  // however many follow: others are to be told something, too
    }
    return false;
}

}  // namespace ringcast::link
