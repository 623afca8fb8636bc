#include "pool/client.hpp"

#include <algorithm>
#include <cerrno>

#include "errors.hpp"
#include "locks.hpp"
#include "parking.hpp"
#include "platform/clock.hpp"
#include "platform/process.hpp"
#include "pool/checksum.hpp"
#include "pool/mailbox.hpp"

namespace ringcast::pool {

namespace {

constexpr std::uint32_t kToken = 1;
constexpr std::uint32_t kWindow = 16;  // keys whose memory is fetched at a time
// While it waits: how often a client asks whether the server lives.
constexpr std::int64_t kLifeNs = 250'000'000;

[[noreturn]] void throw_no_server(const PoolMemory& memory, const char* why) {
    throw Error(ErrorCode::segment_not_found,
                memory.label() + " has no living server: " + why + "; start one (ringcast pool serve)", ENOENT);
}

void nap() {
    const timespec millisecond{.tv_sec = 0, .tv_nsec = 1'000'000};
    nanosleep(&millisecond, nullptr);
}

}  // namespace

std::shared_ptr<Client> Client::connect(const Options& options, std::int64_t patience_ns) {
    auto memory = PoolMemory::attach(options.name, options.release);
    const std::int64_t begin = platform::monotonic_ns();
    for (;;) {
        if (memory->words().life.load(std::memory_order_relaxed) == PoolLife::closed)
            throw_no_server(*memory, "it has just ended");
        if (!memory->server_alive()) {
            memory->remove_if_abandoned();
            throw_no_server(*memory, "it has died");
        }
        if (const auto seat = memory->take_seat())
            return std::shared_ptr<Client>(new Client(std::move(memory), *seat, options));
        if (platform::monotonic_ns() - begin >= patience_ns)
            throw Error(ErrorCode::capacity,
                        memory->label() + " has no seat for another client: all " +
                            std::to_string(memory->header().n_seats) +
                            " are taken; close clients, or start the server with more seats",
                        ENOSPC);
        // Perhaps a client has just gone, and the server has not seen to its seat.
        auto& bell = memory->bell();
        for (std::uint32_t i = 0; i < memory->header().n_seats; i += 64)
            bell.rung[i / 64].fetch_or(~std::uint64_t{0}, std::memory_order_release);
        Native::fence_seq_cst();  // [signal]
        unpark<Native>(bell.server_parked);
        nap();
    }
}

Client::Client(std::unique_ptr<PoolMemory> memory, std::uint32_t seat, const Options& options)
    : memory_(std::move(memory)),
      seat_(seat),
      waiting_(options.waiting),
      row_(memory_->own_seat().pins, memory_->own_seat().pins_used, memory_->header().n_pins),
      intact_(memory_->index().n_entries) {
    NativePoolSeat& own = memory_->own_seat();
    Native::reached(FaultPoint::pool_seat_locked);
    own.pid.store(platform::process_id(), std::memory_order_relaxed);
    own.pid_namespace.store(platform::pid_namespace(), std::memory_order_relaxed);
    own.since_ns.store(platform::wall_clock_ns(), std::memory_order_relaxed);
    copy_text(own.worker_id, sizeof own.worker_id, options.worker_id);
    for (auto* count : {&own.counters.lookups, &own.counters.keys_looked_up, &own.counters.keys_found,
                        &own.counters.retrieves, &own.counters.keys_retrieved, &own.counters.hits})
        count->store(0, std::memory_order_relaxed);
    for (std::uint32_t i = 0; i < kMailSlots; ++i) {
        own.mail[i].parked.word.store(0, std::memory_order_relaxed);  // a dead holder may have slept
        numbers_[i] = mail_number(own.mail[i].word.load(std::memory_order_relaxed));
    }
    const std::uint32_t incarnation = seat_incarnation(own.state.load(std::memory_order_relaxed)) + 1;
    own.state.store(seat_word(incarnation, PoolSeatState::taken), std::memory_order_release);  // release [seat]
    Native::reached(FaultPoint::pool_seat_taken);
}

void Client::close() noexcept {
    if (in_forked_child() || closed_.exchange(true, std::memory_order_relaxed)) return;
    const std::lock_guard guard(pinning_);
    if (row_.held() == 0) leave();
}

void Client::leave() noexcept {
    if (left_.exchange(true, std::memory_order_relaxed)) return;
    memory_->locks().unlock(seat_lock(seat_));
    ring();  // so that the server gives the seat back now
    memory_->remove_if_abandoned();
}

void Client::ring() noexcept {
    auto& bell = memory_->bell();
    // release [bell]: who finds the bit finds the request.
    bell.rung[seat_ / 64].fetch_or(std::uint64_t{1} << seat_ % 64, std::memory_order_release);
    Native::reached(FaultPoint::pool_rung);
    Native::fence_seq_cst();  // [signal]
    unpark<Native>(bell.server_parked);
}

// --- Hits.

std::uint32_t Client::find_leading(std::span<const Digest> keys, std::vector<Look>& looks, Status& stopped) const {
    const Index<Native>& index = memory_->index();
    looks.clear();
    looks.reserve(keys.size());
    stopped = Status::miss;
    Index<Native>::Where where[kWindow];
    for (std::size_t from = 0; from < keys.size(); from += kWindow) {
        const auto n = static_cast<std::uint32_t>(std::min<std::size_t>(kWindow, keys.size() - from));
        for (std::uint32_t i = 0; i < n; ++i) {
            where[i] = index.where(keys[from + i]);
            index.prefetch(where[i]);
        }
        for (std::uint32_t i = 0; i < n; ++i) {
            std::uint32_t side = 0;
            std::uint32_t cell = 0;
            const std::uint32_t entry = index.next_candidate(where[i], side, cell);
            if (entry != kNoEntry) __builtin_prefetch(&index.entries[entry]);
        }
        for (std::uint32_t i = 0; i < n; ++i) {
            const auto found = index.find(keys[from + i], where[i]);
            if (found.entry == kNoEntry || state_of(found.word) != EntryState::present) {
                if (found.entry != kNoEntry && state_of(found.word) == EntryState::reserved) stopped = Status::pending;
                return static_cast<std::uint32_t>(looks.size());
            }
            looks.push_back({found.entry, found.word});
        }
    }
    return static_cast<std::uint32_t>(looks.size());
}

void Client::find_each(std::span<const Digest> keys, std::vector<Look>& looks, std::vector<Status>& statuses) const {
    const Index<Native>& index = memory_->index();
    looks.clear();
    statuses.clear();
    for (const Digest& key : keys) {
        const auto found = index.find(key);
        const EntryState state = found.entry == kNoEntry ? EntryState::free : state_of(found.word);
        looks.push_back({state == EntryState::present ? found.entry : kNoEntry, found.word});
        statuses.push_back(state == EntryState::present    ? Status::hit
                           : state == EntryState::reserved ? Status::pending
                                                           : Status::miss);
    }
}

std::uint32_t Client::lookup(std::span<const Digest> keys) const {
    thread_local std::vector<Look> looks;
    Status stopped{};
    find_leading(keys, looks, stopped);
    return memory_->index().confirmed(looks);
}

Pinned<Native> Client::pin(std::span<const Look> looks, Places& places) {
    const std::lock_guard guard(pinning_);
    const auto pinned = pin_leading(memory_->index(), row_, looks, places);
    Native::reached(FaultPoint::pool_pinned);
    return pinned;
}

bool Client::pin_each(std::span<const Look> looks, Places& places, std::vector<bool>& pinned) {
    pinned.assign(looks.size(), false);
    const std::lock_guard guard(pinning_);
    std::vector<std::uint32_t> got(looks.size(), PinRow<Native>::kFull);
    bool room = true;
    for (std::size_t i = 0; i < looks.size(); ++i) {
        if (looks[i].entry == kNoEntry) continue;
        got[i] = row_.put(looks[i].entry, generation_of(looks[i].word));
        if (got[i] == PinRow<Native>::kFull) room = false;
    }
    Native::fence_seq_cst();  // [pin]
    for (std::size_t i = 0; i < looks.size(); ++i) {
        if (got[i] == PinRow<Native>::kFull) continue;
        if (memory_->index().is_unchanged(looks[i])) {
            pinned[i] = true;
            places.push_back(got[i]);
        } else {
            row_.clear(got[i]);
        }
    }
    return room;
}

void Client::unpin(Places& places) noexcept {
    if (places.empty() || in_forked_child()) return;
    Native::reached(FaultPoint::pool_unpin_begin);
    const std::lock_guard guard(pinning_);
    for (const std::uint32_t place : places) row_.clear(place);
    places.clear();
    if (closed() && row_.held() == 0) leave();
}

std::uint32_t Client::room() noexcept {
    const std::lock_guard guard(pinning_);
    return row_.room();
}

std::uint32_t Client::held() noexcept {
    const std::lock_guard guard(pinning_);
    return row_.held();
}

void Client::touch(std::uint32_t entry, std::uint32_t ancestors) noexcept {
    NativePoolSeat& own = memory_->own_seat();
    const std::lock_guard guard(pinning_);
    const std::uint64_t n = own.touched.load(std::memory_order_relaxed);
    own.touches[n % kTouches].store(std::uint64_t{entry} << 32 | std::min(ancestors, 0xffffu),
                                    std::memory_order_relaxed);
    own.touched.store(n + 1, std::memory_order_release);  // release [touch]
}

bool Client::is_intact(const Look& look) {
    const NativeEntry& entry = memory_->index().entries[look.entry];
    if (entry.checked.load(std::memory_order_relaxed) == 0) return true;
    auto& seen = intact_[look.entry];
    const std::uint32_t mark = generation_of(look.word) + 1;
    if (seen.load(std::memory_order_relaxed) == mark) return true;
    const std::uint32_t bytes = entry.length.load(std::memory_order_relaxed);
    const std::uint32_t found = checksum_of({memory_->data() + entry.block.load(std::memory_order_relaxed), bytes});
    if (found != entry.checksum.load(std::memory_order_relaxed)) return false;
    seen.store(mark, std::memory_order_relaxed);
    return true;
}

bool Client::is_intact(const Look& look, std::uint32_t found) noexcept {
    const NativeEntry& entry = memory_->index().entries[look.entry];
    if (entry.checked.load(std::memory_order_relaxed) == 0) return true;
    const bool same = found == entry.checksum.load(std::memory_order_relaxed);
    intact_[look.entry].store(same ? generation_of(look.word) + 1 : 0, std::memory_order_relaxed);
    return same;
}

std::uint32_t Client::changes() const noexcept { return memory_->words().changes.load(std::memory_order_acquire); }

void Client::wait_for_change(std::uint32_t seen, std::int64_t most_ns) noexcept {
    memory_->bell().changes_wanted.store(1, std::memory_order_relaxed);
    Native::fence_seq_cst();  // [changes-wanted]: pairs with the server's [signal]
    auto& changes = memory_->words().changes;
    if (changes.load(std::memory_order_relaxed) != seen) return;
    Native::futex_wait(changes, seen, std::min(most_ns, kLifeNs));
}

// --- Requests.

Call::Call(Client& client) : client_(client), waiter_(client.waiting_, client.counters_) {}

bool Call::take_slot() {
    const std::lock_guard guard(client_.slots_);
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
    const std::lock_guard guard(client_.slots_);
    client_.slots_in_use_ &= ~(1u << index_);
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

Call::Progress Call::slice(std::int64_t until_ns) {
    PoolMemory& memory = *client_.memory_;
    const auto closed = [&] { return memory.words().life.load(std::memory_order_relaxed) == PoolLife::closed; };
    const auto ready = [&] { return answered() || closed(); };
    waiter_.slice(slot().parked, kToken, std::min(until_ns, platform::monotonic_ns() + kLifeNs), ready);
    if (answered()) {
        waiter_.finish(true);
        Native::reached(FaultPoint::pool_answer_found);
        return Progress::answered;
    }
    if (closed()) return Progress::closed;
    return memory.server_alive() ? Progress::waiting : Progress::server_dead;
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
