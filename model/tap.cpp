#include "tap.hpp"

#include <algorithm>

namespace model {

namespace {

class TapLock {
public:
    explicit TapLock(Site site = Site::current()) : site_(site) { Explorer::the().lock(World::kTapLock, site_); }
    ~TapLock() { Explorer::the().unlock(World::kTapLock, site_); }
    TapLock(const TapLock&) = delete;
    TapLock& operator=(const TapLock&) = delete;

private:
    Site site_;
};

}  // namespace

void Tap::claim() {
    Explorer& explorer = Explorer::the();
    world_.taps |= 1u << explorer.self();
    Seat& seat = world_.ring.seats[index_];
    if (!(world_.attached && world_.holder[index_] == explorer.self())) {
        explorer.lock(index_, Site::current());
        world_.holder[index_] = explorer.self();
        ringcast::Claimed taken{};
        while (!ringcast::take_seat(world_.ring, seat, Start::promised, taken)) {
        }
        position_ = taken.first;
        if (taken.before == SeatState::expected)
            explorer.expect(position_ == world_.read[index_], "a stream does not begin where all has been kept from");
    }
    ring_.emplace(world_.ring, index_, position_);
    world_.wire.acknowledged = position_;
}

void Tap::place(std::uint32_t index) {
    Placement& placement = world_.ring.board[index];
    placement.pid.store(World::kPid, std::memory_order_relaxed);
    placement.stream.store(index_, std::memory_order_relaxed);
    ringcast::post_placement(world_.ring, index, ringcast::PlacementState::attached);
}

void Tap::forgo(World& world, std::uint32_t home) {
    Explorer::the().lock(home, Site::current());
    world.kept[home] = false;
    ringcast::forgo_home(world.ring, world.ring.seats[home]);
    Explorer::the().unlock(home, Site::current());
}

std::uint32_t Tap::orders() const {
    std::uint32_t orders = 0;
    for (std::uint32_t i = 0; i < world_.ring.n_remote; ++i)
        orders += world_.ring.board[i].evict.load(std::memory_order_relaxed);
    return orders;
}

// As Tap::something.
bool Tap::something() const {
    return ring_->readable() || world_.ring.control->closed.load(std::memory_order_relaxed) != 0 ||
           orders() != orders_seen_ || !ring_->still_seated() || world_.roused.load(std::memory_order_relaxed);
}

// As Tap::await and ending.
bool Tap::await_message() {
    while (!ring_->readable()) {
        Explorer::the().expect(ring_->still_seated(), "the seat of a link that reads was taken away");
        if (world_.ring.control->closed.load(std::memory_order_acquire) != 0) {
            if (ring_->readable()) break;
            Explorer::the().expect(position_ == world_.published, "a message that was published was not taken");
            return false;
        }
        sleep(world_.ring.seats[index_].parked, 1, [this] { return something(); });
    }
    return true;
}

// What the message at the position says; it is still there.
std::uint64_t Tap::read() {
    Descriptor descriptor{};
    std::uint64_t bytes = 0;
    Policy::copy(&descriptor, &ring_->slot().descriptor, sizeof descriptor);
    if (world_.blocks == 0) {
        Policy::copy(&bytes, Ring::inline_area(ring_->slot()), sizeof bytes);
    } else {
        block_ = {position_, descriptor.row};
        Policy::copy(&bytes, world_.block(world_.index_of(descriptor.block)), sizeof bytes);
    }
    Explorer::the().expect(descriptor.length == content(position_) && bytes == content(position_),
                           "a link took a message that is torn, or not the one at its position");
    return bytes;
}

void Tap::go_on() {
    if (world_.blocks != 0) world_.wire.taken[world_.wire.n_taken++] = block_;
    ring_->go_on();
    ++position_;
}

bool Tap::take(std::uint64_t count) {
    for (std::uint64_t n = 0; n < count; ++n) {
        if (!await_message()) return false;
        read();
        go_on();
    }
    return true;
}

void Tap::acknowledge(std::uint64_t position) { acknowledge(world_, *ring_, position); }

// As Tap::acknowledge; seat 0's.
void Tap::acknowledge(World& world, ringcast::RingReader<Policy>& ring, std::uint64_t position) {
    World::Wire& wire = world.wire;
    while (wire.n_taken > 0 && wire.taken[0].position < position) {
        ringcast::mark_done(world.ring, 0, wire.taken[0].row, ringcast::mark_of(wire.taken[0].position));
        std::copy(wire.taken.begin() + 1, wire.taken.begin() + wire.n_taken, wire.taken.begin());
        --wire.n_taken;
    }
    wire.acknowledged = position;
    world.read[0] = position;
    ring.acknowledge(position);
    Explorer::the().expect(ring.settle(), "the seat of a link that reads was taken away");
}

// As Outgoing: sends what there is; after a cut it hears what the other link has published, and goes back to that.
void Tap::send_over_wire(std::uint64_t count) {
    World::Wire& wire = world_.wire;
    auto& parked = world_.ring.seats[index_].parked;
    const auto cut = [this] { return world_.roused.load(std::memory_order_relaxed); };
    for (bool resumed = false; !resumed || position_ < count;) {
        if (cut() && world_.roused.exchange(false, std::memory_order_relaxed)) {
            const TapLock lock;
            acknowledge(wire.published);
            wire.n_taken = 0;
            ring_->go_to(wire.acknowledged);
            position_ = wire.acknowledged;
            wire.broken = false;
            resumed = true;
        } else if (position_ == count) {
            sleep(parked, 1, cut);
        } else if (!ring_->readable()) {
            sleep(parked, 1, [&] { return ring_->readable() || cut(); });
        } else {
            const std::uint64_t bytes = read();
            {
                const TapLock lock;
                if (!wire.broken) {
                    wire.bytes_sent[wire.n_under_way] = bytes;
                    wire.under_way[wire.n_under_way++] = position_;
                }
                go_on();
            }
            ringcast::rouse<Policy>(world_.arrived, world_.far_parked);
        }
    }
}

void Tap::publish_arrived(World::Wire& wire) {
    for (std::uint32_t i = 0; i < wire.n_under_way; ++i) {
        if (wire.under_way[i] < wire.published) continue;
        Explorer::the().expect(wire.under_way[i] == wire.published, "a message is left out between links");
        Explorer::the().expect(wire.bytes_sent[i] == content(wire.published), "a link published another message");
        ++wire.published;
    }
    wire.n_under_way = 0;
}

void Tap::publish_elsewhere(World& world, std::uint64_t count) {
    World::Wire& wire = world.wire;
    ringcast::RingReader<Policy> ring(world.ring, 0, 0);
    {
        const TapLock lock;
        publish_arrived(wire);
        wire.broken = true;
    }
    ringcast::rouse<Policy>(world.roused, world.ring.seats[0].parked);
    const auto arrived = [&] { return world.arrived.load(std::memory_order_relaxed); };
    while (wire.published < count) {
        if (!arrived()) sleep(world.far_parked, 1, arrived);
        if (!arrived() || !world.arrived.exchange(false, std::memory_order_relaxed)) continue;
        const TapLock lock;
        publish_arrived(wire);
        // What it had published when the wire was cut it says when it dials again.
        if (!wire.broken && wire.published > wire.acknowledged) acknowledge(world, ring, wire.published);
    }
}

void Tap::await_order() {
    while (orders() == orders_seen_) sleep(world_.ring.seats[index_].parked, 1, [this] { return something(); });
}

void Tap::leave(bool in_order) {
    if (in_order) world_.kept[index_] = false;
    ringcast::leave_seat(world_.ring, world_.ring.seats[index_], in_order);
    Explorer::the().unlock(index_, Site::current());
}

}  // namespace model
