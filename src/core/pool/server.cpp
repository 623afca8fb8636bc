// A server's life, the loop of its thread, and what it looks after: seats, and what clients say they have used.
#include <algorithm>

#include "errors.hpp"
#include "locks.hpp"
#include "parking.hpp"
#include "platform/process.hpp"
#include "pool/mailbox.hpp"
#include "pool/server.hpp"
#include "threads.hpp"

namespace ringcast::pool {

namespace {

// How often it looks after seats and reservations while there are any. A dead client's memory is back within a second.
constexpr std::int64_t kLookNs = 250'000'000;
// How long a server that ends waits for what its tiers are doing.
constexpr std::int64_t kTiersEndNs = 5'000'000'000;

std::unique_ptr<PoolMemory> opened(const PoolMemory::Request& request, bool& adopted) {
    auto served = PoolMemory::serve(request);
    adopted = served.adopted;
    return std::move(served.memory);
}

}  // namespace

Server::~Server() {
    close();
    // A forked child has the object and not the thread.
    if (thread_.joinable()) new std::thread(std::move(thread_));
    if (in_forked_child()) {
        static_cast<void>(meter_.release());
        static_cast<void>(tiers_.release());
    }
}

Server::Server(const Options& options)
    : name_(options.memory.user_name),
      memory_(opened(options.memory, adopted_)),
      keeper_(*memory_, options.policy, options.quotas, TierDriver::places(options.tiers)),
      touches_seen_(memory_->header().n_seats),
      waiter_(options.waiting, counters_) {
    auto& words = memory_->words();
    words.pid.store(platform::process_id(), std::memory_order_relaxed);
    words.pid_namespace.store(platform::pid_namespace(), std::memory_order_relaxed);
    words.epoch.store(words.epoch.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    words.policy.store(static_cast<std::uint32_t>(options.policy), std::memory_order_relaxed);
    std::uint32_t n_quotas = 0;
    for (const auto& [tenant, bytes] : options.quotas) {
        if (n_quotas < kQuotasShown) {
            words.quotas[n_quotas].tenant.store(tenant, std::memory_order_relaxed);
            words.quotas[n_quotas].bytes.store(bytes, std::memory_order_relaxed);
        }
        ++n_quotas;
    }
    words.n_quotas.store(n_quotas, std::memory_order_relaxed);
    for (auto& row : words.curve)
        for (auto& rate : row) rate.store(0, std::memory_order_relaxed);
    words.curve_accesses.store(0, std::memory_order_relaxed);
    words.curve_lost.store(0, std::memory_order_relaxed);
    memory_->bell().server_parked.word.store(0, std::memory_order_relaxed);  // a dead one may have slept
    meter_ = std::make_unique<HitRateMeter>(words);
    tiers_ = std::make_unique<TierDriver>(keeper_, words, memory_->header().capacity, options.tiers,
                                          options.tier_patience_ns, [this] {
                                              Native::fence_seq_cst();  // [signal]
                                              unpark<Native>(memory_->bell().server_parked);
                                          });
    keeper_.read_clock();
    const auto contents = TierDriver::contents(options.tiers);
    if (!adopted_) {
        keeper_.enter(contents);
    } else {
        keeper_.adopt(contents);
        for (std::uint32_t seat = 0; seat < memory_->header().n_seats; ++seat) {
            touches_seen_[seat] = memory_->seat(seat).touched.load(std::memory_order_relaxed);
            serve_seat(seat);
        }
    }
    thread_ = start_without_signals([this] { run(); });
}

void Server::close() noexcept {
    if (in_forked_child() || closed_.exchange(true, std::memory_order_relaxed)) return;
    rouse<Native>(stopping_, memory_->bell().server_parked);
    if (thread_.joinable()) thread_.join();
    if (!tiers_->end(kTiersEndNs)) {
        abandoned_.store(true, std::memory_order_relaxed);
        static_cast<void>(new std::shared_ptr<PoolMemory>(memory_));  // mapped until the process ends
    }
    if (memory_->header().kept != 0) {
        memory_->disown();
    } else {
        memory_->words().life.store(PoolLife::closed, std::memory_order_relaxed);
        memory_->unlink();
    }
    Native::fence_seq_cst();  // [signal]: its clients look at its life
    for (std::uint32_t i = 0; i < memory_->header().n_seats; ++i)
        for (auto& slot : memory_->seat(i).mail) unpark<Native>(slot.parked);
    announce_changes();
    meter_.reset();
    const std::lock_guard guard(closing_);
    memory_.reset();
}

bool Server::rung() const noexcept {
    for (const auto& bits : memory_->bell().rung)
        if (bits.load(std::memory_order_relaxed) != 0) return true;
    return false;
}

void Server::run() noexcept {
    std::int64_t look_at = 0;
    const auto ready = [this] { return stopping_.load(std::memory_order_relaxed) || rung() || tiers_->any_finished(); };
    while (!stopping_.load(std::memory_order_relaxed)) {
        const bool worked = take_requests() || tiers_->any_finished();
        const bool looks = platform::monotonic_ns() >= look_at;
        if (looks) {
            take_touches();
            look_after_seats();
            meter_->rouse();
            look_at = platform::monotonic_ns() + kLookNs;
        }
        if (worked || looks) {
            keeper_.read_clock();
            tiers_->work();
            keeper_.evict_ahead();
            if (keeper_.has_new_limbo()) keeper_.settle();
        }
        announce_changes();
        if (worked) continue;
        waiter_.begin();
        bool is_ready = waiter_.briefly(ready);
        while (!is_ready && platform::monotonic_ns() < look_at)
            is_ready = waiter_.slice(memory_->bell().server_parked, kParkedToken, look_at, ready);
        waiter_.finish(is_ready);
    }
}

void Server::announce_changes() noexcept {
    if (!keeper_.take_changed() && !stopping_.load(std::memory_order_relaxed)) return;
    auto& changes = memory_->words().changes;
    changes.store(changes.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    Native::fence_seq_cst();  // [signal]: pairs with [changes-wanted]
    auto& wanted = memory_->bell().changes_wanted;
    if (wanted.load(std::memory_order_relaxed) != 0 && wanted.exchange(0, std::memory_order_relaxed) != 0)
        Native::futex_wake_all(changes);
}

// --- Seats.

void Server::look_after_seats() {
    keeper_.read_clock();
    for (std::uint32_t i = 0; i < memory_->header().n_seats; ++i) look_after(i);
    keeper_.abort_abandoned();
    keeper_.settle();
}

void Server::look_after(std::uint32_t seat) {
    // acquire [seat]: with whatever its client wrote before it died.
    const std::uint64_t word = memory_->seat(seat).state.load(std::memory_order_acquire);
    if (seat_state(word) == PoolSeatState::vacant || keeper_.seat_lives(seat)) return;
    // Under its lock: a parent may be about to share what one child has left with the next one.
    try {
        if (!memory_->locks().try_lock(seat_lock(seat))) return;
    } catch (const Error&) {
        return;
    }
    give_back(seat);
    memory_->locks().unlock(seat_lock(seat));
}

// Its client is gone: what it stored is aborted, what it held counts no more, and the next client may come.
void Server::give_back(std::uint32_t i) {
    NativePoolSeat& seat = memory_->seat(i);
    keeper_.abort_all_of(i);
    std::erase_if(deferred_, [&](const DeferredRequest& one) {
        if (one->owner.seat != i) return false;
        one->over = true;
        return true;
    });
    memory_->words().past.add(seat.counters);
    for (auto& slot : seat.mail) slot.word.store(mail_word(0, MailPhase::idle), std::memory_order_relaxed);
    const std::uint32_t used = std::min(seat.pins_used.load(std::memory_order_relaxed), memory_->header().n_pins);
    for (std::uint32_t k = 0; k < used; ++k) seat.pins[k].store(0, std::memory_order_relaxed);
    seat.pins_used.store(0, std::memory_order_relaxed);
    const std::uint32_t incarnation = seat_incarnation(seat.state.load(std::memory_order_relaxed));
    seat.state.store(seat_word(incarnation, PoolSeatState::vacant), std::memory_order_release);  // release [seat]
}

void Server::take_touches() {
    for (std::uint32_t i = 0; i < memory_->header().n_seats; ++i) {
        const NativePoolSeat& seat = memory_->seat(i);
        const std::uint64_t touched = seat.touched.load(std::memory_order_acquire);  // acquire [touch]
        std::uint64_t& seen = touches_seen_[i];
        if (touched < seen || touched - seen > kTouches) seen = touched - std::min<std::uint64_t>(touched, kTouches);
        for (; seen < touched; ++seen) {
            const std::uint64_t touch = seat.touches[seen % kTouches].load(std::memory_order_relaxed);
            keeper_.touch(touched_entry(touch), touched_ancestors(touch));
            // Who stores behind a chunk has used it before, or has stored it himself.
            if (!touched_by_store(touch)) tiers_->used(touched_entry(touch), touched_ancestors(touch));
            if (meter_->begun() && !touched_by_store(touch))
                note_access(touched_entry(touch), touched_ancestors(touch));
        }
    }
}

// What was found there, for the curve of hit rates.
void Server::note_access(std::uint32_t entry, std::uint32_t ancestors) {
    accessed_.clear();
    keeper_.for_each_of_chain(entry, ancestors, [&](std::uint32_t e) { accessed_.push_back(keeper_.key_of(e)); });
    std::ranges::reverse(accessed_);
    if (!accessed_.empty()) meter_->note(accessed_, {});
}

}  // namespace ringcast::pool
