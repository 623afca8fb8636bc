#include "pool/call.hpp"

#include <algorithm>

#include "parking.hpp"
#include "platform/clock.hpp"
#include "pool/mailbox.hpp"

namespace ringcast::pool {

namespace {

// While it waits: how often a client asks whether the server lives.
constexpr std::int64_t kLifeNs = 250'000'000;

}  // namespace

Call::Call(Client& client) : client_(client), waiter_(client.waiting_, client.counters_) {}

bool Call::take_slot() {
    const std::lock_guard guard(client_.slots_);
    if (client_.closed()) return false;
    for (std::uint32_t i = 0; i < kMailSlots; ++i) {
        if ((client_.slots_in_use_ >> i & 1) != 0) continue;
        const std::uint64_t word = client_.memory_->own_seat().mail[i].word.load(std::memory_order_relaxed);
        if (mail_phase(word) != MailPhase::idle) continue;
        client_.slots_in_use_ |= 1u << i;
        index_ = i;
        number_ = ++client_.numbers_[i];
        return true;
    }
    return false;
}

Call::~Call() {
    if (index_ == kMailSlots) return;
    if (asked_ && !withdraw()) take();
    {
        const std::lock_guard guard(client_.slots_);
        client_.slots_in_use_ &= ~(1u << index_);
    }
    const std::lock_guard guard(client_.pinning_);
    client_.leave_if_done();
}

void Call::begin(Ask kind, std::uint32_t count) noexcept {
    slot().kind.store(static_cast<std::uint32_t>(kind), std::memory_order_relaxed);
    slot().count.store(count, std::memory_order_relaxed);
    waiter_.begin();
    ask<Native>(slot().word, number_);
    asked_ = true;
    Native::reached(FaultPoint::pool_asked);
    client_.ring();
}

bool Call::answered() const noexcept { return is_answered<Native>(slot().word, number_); }

bool Call::briefly() noexcept {
    return waiter_.briefly([this] { return answered(); });
}

Call::Progress Call::outlook() const noexcept {
    PoolMemory& memory = *client_.memory_;
    if (memory.words().life.load(std::memory_order_relaxed) == PoolLife::closed) return Progress::closed;
    return memory.server_alive() ? Progress::waiting : Progress::server_dead;
}

Call::Progress Call::slice(std::int64_t until_ns) {
    PoolMemory& memory = *client_.memory_;
    const auto closed = [&] { return memory.words().life.load(std::memory_order_relaxed) == PoolLife::closed; };
    const auto ready = [&] { return answered() || closed(); };
    waiter_.slice(slot().parked, kParkedToken, std::min(until_ns, platform::monotonic_ns() + kLifeNs), ready);
    if (answered()) {
        waiter_.finish(true);
        Native::reached(FaultPoint::pool_answer_found);
        return Progress::answered;
    }
    return outlook();
}

void Call::take() noexcept {
    Native::reached(FaultPoint::pool_answer_pinned);
    ringcast::pool::take<Native>(slot().word, number_);
    asked_ = false;
    Native::reached(FaultPoint::pool_answer_taken);
}

bool Call::withdraw() noexcept {
    if (!ringcast::pool::withdraw<Native>(slot().word, number_)) return false;
    asked_ = false;
    client_.ring();
    return true;
}

}  // namespace ringcast::pool
