// The Python types of a stream between two links: Outflow at the writer's side, which sends what a tap finds, and Inflow at the
// readers', which publishes in a relay what comes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "arguments.hpp"
#include "link/channel.hpp"
#include "link/outflow.hpp"
#include "methods.hpp"
#include "modules.hpp"
#include "unlocked.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ringcast::bindings {

namespace {

using link::Channel;
using link::Kind;
using link::Outflow;

std::int64_t nanoseconds(double seconds) { return static_cast<std::int64_t>(seconds * 1e9); }

// True if nothing came for `idle` seconds.
bool run_outflow(Outflow& outflow, Channel& channel, double busy, double idle) {
    const Unlocked unlocked;
    return outflow.run(channel, nanoseconds(busy), nanoseconds(idle)) == Outflow::Pause::idle;
}

bool hear_acknowledgements(Channel& channel, Tap& tap, double timeout) {
    const Unlocked unlocked;
    return link::hear_acknowledgements(channel, tap, platform::monotonic_ns() + nanoseconds(timeout));
}

// Of one pair of connections. The relay's turn is taken for each record, so that its other threads have their say between. Room
// for a message that has arrived in part is given back when the next one is asked for.
class Inflow {
public:
    // `relay` is the writer's end there; its first message is the stream's message `base`.
    Inflow(nb::object relay, std::shared_ptr<Channel> data, std::shared_ptr<Channel> control, std::uint64_t base)
        : self_(std::move(relay)),
          end_(nb::cast<End&>(self_)),
          sender_(end_.writer("Inflow")),
          data_(std::move(data)),
          control_(std::move(control)),
          base_(base),
          acknowledged_(sender_.messages()),
          most_(std::max<std::uint64_t>(1, sender_.segment().geometry().max_chunks / 4)) {}

    // Publishes what comes. Returns (why, all_were_there) at the stream's end; None if there was no room for `patience`
    // seconds: the call that follows goes on. Raises what `enqueue` raises, after which it can be called again, and LinkError.
    nb::object run(double patience);
    // What is published is the other side's to know.
    void acknowledge() {
        acknowledged_ = sender_.messages();
        const std::uint64_t position = base_ + acknowledged_;
        const Unlocked unlocked;
        control_->send(Kind::ack, std::as_bytes(std::span(&position, 1)));
    }
    bool waits() const noexcept { return waits_.load(std::memory_order_relaxed); }

private:
    static constexpr std::uint32_t kAnnounceEvery = 32;
    // If nothing follows: an acknowledgement is another message's time, and is not hurried for.
    static constexpr std::int64_t kAcknowledgedAfterNs = 1'000'000;

    bool publish_batch(const WaitOptions& options);
    bool take_large(const WaitOptions& options);
    void acknowledge_if_due();
    bool has_room(Call& call, std::uint64_t length, Sender::Room& room, const WaitOptions& options);
    [[noreturn]] void raise_foreign() const;
    [[noreturn]] void raise_meaningless(const Channel::Record& record, const char* where) const;
    Encoding checked_encoding(std::uint8_t encoding) const;

    nb::object self_;
    End& end_;
    Sender& sender_;
    std::shared_ptr<Channel> data_, control_;
    std::uint64_t base_;
    std::uint64_t acknowledged_;
    std::uint64_t most_;  // messages that are published and not acknowledged
    std::atomic<bool> waits_{false};

    link::Piece batch_;  // what is not published of it yet
    struct Large {
        std::uint64_t length;
        std::uint64_t arrived;
        Encoding encoding;
        bool framed;
        bool placed;
    };
    std::optional<Large> large_;  // that is arriving
};

nb::object Inflow::run(double patience) {
    const WaitOptions options{.timeout_ns = nanoseconds(patience)};
    while (true) {
        if (!publish_batch(options) || !take_large(options)) return nb::none();
        acknowledge_if_due();
        link::Piece payload;
        const Channel::Record record = [&] {
            const Unlocked unlocked;
            const Channel::Record found = data_->next();
            if (found.is(Kind::batch) || found.is(Kind::begin) || found.is(Kind::end)) payload = data_->read();
            return found;
        }();
        if (record.is(Kind::batch)) {
            batch_ = payload;
        } else if (record.is(Kind::begin) && payload.size() == link::Beginning::kBytes) {
            Large begun{0, 0, Encoding::raw, false, false};
            std::memcpy(&begun.length, payload.data(), sizeof begun.length);
            const auto framed = static_cast<std::uint8_t>(payload[9]);
            if (framed > 1)
                raise("LinkError", data_->peer() + " begins a message that is framed in way " + std::to_string(framed) +
                                       ", which is none");
            begun.encoding = checked_encoding(static_cast<std::uint8_t>(payload[8]));
            begun.framed = framed != 0;
            large_ = begun;
        } else if (record.is(Kind::end) && payload.size() == 2) {
            return nb::make_tuple(static_cast<int>(payload[0]), static_cast<int>(payload[1]));
        } else {
            raise_meaningless(record, ", which means nothing here");
        }
    }
}

// False: there is no room. With the turn.
bool Inflow::has_room(Call& call, std::uint64_t length, Sender::Room& room, const WaitOptions& options) {
    try {
        if (!reserve(end_, sender_, length, room, options, call.deadline_ns, self_.ptr())) {
            PyErr_Clear();
            waits_.store(true, std::memory_order_relaxed);
            return false;
        }
    } catch (...) {
        waits_.store(true, std::memory_order_relaxed);
        throw;
    }
    waits_.store(false, std::memory_order_relaxed);
    return true;
}

bool Inflow::publish_batch(const WaitOptions& options) {
    if (batch_.empty()) return true;
    try {
        Call call(end_, options);
        struct Announce {
            Sender& sender;
            ~Announce() { sender.announce(); }
        } announce_at_end{sender_};
        for (std::uint32_t number = 1; !batch_.empty(); ++number) {
            BatchHead head;
            if (batch_.size() < sizeof head) raise_foreign();
            std::memcpy(&head, batch_.data(), sizeof head);
            if (head.length > batch_.size() - sizeof head || head.framed > 1 || head.zero != 0) raise_foreign();
            const Encoding encoding = checked_encoding(static_cast<std::uint8_t>(head.encoding));
            Sender::Room room;
            if (!has_room(call, head.length, room, options)) return false;
            std::memcpy(room.bytes, batch_.data() + sizeof head, head.length);
            sender_.commit(room, encoding, head.framed != 0, number % kAnnounceEvery != 0);
            batch_ = batch_.subspan(sizeof head + head.length);
        }
    } catch (const Error& error) {
        raise(error, end_.context());
    }
    return true;
}

bool Inflow::take_large(const WaitOptions& options) {
    if (!large_) return true;
    if (!large_->placed) {
        try {
            Call call(end_, options);
            if (!has_room(call, large_->length, end_.relay_room, options)) return false;
        } catch (const Error& error) {
            raise(error, end_.context());
        }
        large_->placed = true;
    }
    while (large_->arrived < large_->length) {
        bool fits = true;
        const Channel::Record record = [&] {
            const Unlocked unlocked;
            const Channel::Record found = data_->next();
            fits = found.is(Kind::body) && found.length != 0 && found.length <= large_->length - large_->arrived;
            if (fits) data_->read_into(end_.relay_room.bytes + large_->arrived);
            return found;
        }();
        if (!fits) raise_meaningless(record, ", in the middle of a message");
        large_->arrived += record.length;
    }
    Call call(end_, WaitOptions{});
    sender_.commit(end_.relay_room, large_->encoding, large_->framed);
    large_.reset();
    return true;
}

void Inflow::acknowledge_if_due() {
    const std::uint64_t published = sender_.messages();
    if (published == acknowledged_) return;
    if (published - acknowledged_ < most_) {
        const Unlocked unlocked;
        if (data_->await_record(platform::monotonic_ns() + kAcknowledgedAfterNs)) return;
    }
    acknowledge();
}

void Inflow::raise_foreign() const {
    raise("CorruptError", end_.context() + ": the link's other side sent what is no batch of messages");
}

void Inflow::raise_meaningless(const Channel::Record& record, const char* where) const {
    raise("LinkError", data_->peer() + " said " + std::to_string(record.kind) + ", with " +
                           std::to_string(record.length) + " bytes" + where);
}

Encoding Inflow::checked_encoding(std::uint8_t encoding) const {
    if (encoding > static_cast<std::uint8_t>(kLastEncoding)) raise_foreign();
    return static_cast<Encoding>(encoding);
}

}  // namespace

void bind_flows(nb::module_& module) {
    nb::class_<Outflow>(module, "Outflow", "What a tap finds goes out over a channel.")
        .def(nb::init<Tap&>(), "tap"_a, nb::keep_alive<1, 2>())
        .def("run", &run_outflow, "channel"_a, "busy"_a, "idle"_a);
    nb::class_<Inflow>(module, "Inflow", "What comes over a channel is published in a relay.")
        .def(nb::init<nb::object, std::shared_ptr<Channel>, std::shared_ptr<Channel>, std::uint64_t>(), "relay"_a,
             "data"_a, "control"_a, "base"_a)
        .def("run", &Inflow::run, "patience"_a)
        .def("acknowledge", &Inflow::acknowledge)
        .def_prop_ro("waits", &Inflow::waits);
    module.def("hear_acknowledgements", &hear_acknowledgements, "channel"_a, "tap"_a, "timeout"_a);
}

}  // namespace ringcast::bindings
