#include "pool/server.hpp"

#include <algorithm>
#include <bit>

#include "errors.hpp"
#include "locks.hpp"
#include "parking.hpp"
#include "platform/process.hpp"
#include "pool/mailbox.hpp"
#include "threads.hpp"

namespace ringcast::pool {

namespace {

constexpr std::uint32_t kToken = 1;
// How often it looks after seats and reservations while there are any. A dead client's memory is back within a second.
constexpr std::int64_t kLookNs = 250'000'000;

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
}

Server::Server(const Options& options)
    : memory_(opened(options.memory, adopted_)),
      keeper_(*memory_, options.policy, options.quotas),
      touches_seen_(memory_->header().n_seats),
      waiter_(options.waiting, counters_) {
    auto& words = memory_->words();
    words.pid.store(platform::process_id(), std::memory_order_relaxed);
    words.pid_namespace.store(platform::pid_namespace(), std::memory_order_relaxed);
    words.epoch.store(words.epoch.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    memory_->bell().server_parked.word.store(0, std::memory_order_relaxed);  // a dead one may have slept
    if (adopted_) {
        keeper_.adopt();
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
    const auto ready = [this] { return stopping_.load(std::memory_order_relaxed) || rung(); };
    while (!stopping_.load(std::memory_order_relaxed)) {
        const bool worked = take_requests();
        if (platform::monotonic_ns() >= look_at) {
            take_touches();
            look_after_seats();
            look_at = platform::monotonic_ns() + kLookNs;
        }
        if (worked) {
            keeper_.evict_ahead();
            if (keeper_.has_new_limbo()) keeper_.settle();
        }
        announce_changes();
        if (worked) continue;
        waiter_.begin();
        bool is_ready = waiter_.briefly(ready);
        while (!is_ready && platform::monotonic_ns() < look_at)
            is_ready = waiter_.slice(memory_->bell().server_parked, kToken, look_at, ready);
        waiter_.finish(is_ready);
    }
}

// --- Mailboxes.

bool Server::take_requests() {
    if (!rung()) return false;
    take_touches();  // before anything is evicted for what is asked
    bool any = false;
    auto& bits_of = memory_->bell().rung;
    for (std::uint32_t word = 0; word < std::size(bits_of); ++word) {
        if (bits_of[word].load(std::memory_order_relaxed) == 0) continue;
        std::uint64_t bits = bits_of[word].exchange(0, std::memory_order_acquire);  // acquire [bell]
        for (; bits != 0; bits &= bits - 1) {
            const std::uint32_t seat = word * 64 + static_cast<std::uint32_t>(std::countr_zero(bits));
            if (seat >= memory_->header().n_seats) continue;
            if (serve_seat(seat))
                any = true;
            else
                look_after(seat);  // who rings and asks for nothing may have left
        }
    }
    return any;
}

bool Server::serve_seat(std::uint32_t seat) {
    if (seat_state(memory_->seat(seat).state.load(std::memory_order_acquire)) !=
        PoolSeatState::taken)  // acquire [seat]
        return false;
    bool any = false;
    for (std::uint32_t i = 0; i < kMailSlots; ++i) {
        const auto phase = mail_phase(memory_->seat(seat).mail[i].word.load(std::memory_order_relaxed));
        if (phase != MailPhase::asked && phase != MailPhase::withdrawn) continue;
        serve_slot(seat, i);
        any = true;
    }
    return any;
}

void Server::serve_slot(std::uint32_t seat, std::uint32_t i) {
    NativeMailSlot& slot = memory_->seat(seat).mail[i];
    const std::uint64_t word = read_mail<Native>(slot.word);
    const std::uint32_t number = mail_number(word);
    request_.owner = {.seat = seat,
                      .incarnation = seat_incarnation(memory_->seat(seat).state.load(std::memory_order_relaxed)),
                      .slot = i,
                      .request = number};
    bool answered = false;
    if (mail_phase(word) == MailPhase::asked) {
        if (copy(slot, word)) {
            const bool done = perform(slot);
            slot.refused.store(done ? 0 : 1, std::memory_order_relaxed);
            if (!done) memory_->words().refused.fetch_add(1, std::memory_order_relaxed);
            Native::reached(FaultPoint::pool_answer_begin);
            answered = answer<Native>(slot.word, number);
        }
    }
    if (answered) {
        Native::reached(FaultPoint::pool_answered);
        Native::fence_seq_cst();  // [signal]
        unpark<Native>(slot.parked);
        return;
    }
    if (slot.word.load(std::memory_order_relaxed) != mail_word(number, MailPhase::withdrawn)) return;
    keeper_.undo(request_.owner);
    forget<Native>(slot.word, number);
}

// False: it was withdrawn while it was copied.
bool Server::copy(NativeMailSlot& slot, std::uint64_t word) {
    Request& r = request_;
    r.kind = static_cast<Ask>(slot.kind.load(std::memory_order_relaxed));
    r.count = slot.count.load(std::memory_order_relaxed);
    r.length = slot.length.load(std::memory_order_relaxed);
    r.chained = slot.chained.load(std::memory_order_relaxed) != 0;
    r.has_parent = slot.has_parent.load(std::memory_order_relaxed) != 0;
    r.checked = slot.checked.load(std::memory_order_relaxed) != 0;
    r.tenant = slot.tenant.load(std::memory_order_relaxed);
    r.space = slot.space.load(std::memory_order_relaxed);
    for (std::size_t k = 0; k < 4; ++k) r.parent.words[k] = slot.parent[k].load(std::memory_order_relaxed);
    for (std::uint32_t i = 0; i < std::min(r.count, kBatch); ++i) {
        const MailItem& item = slot.items[i];
        for (std::size_t k = 0; k < 4; ++k) r.items[i].key.words[k] = item.digest[k].load(std::memory_order_relaxed);
        r.items[i].entry = item.entry.load(std::memory_order_relaxed);
        r.items[i].generation = item.generation.load(std::memory_order_relaxed);
        r.items[i].checksum = item.checksum.load(std::memory_order_relaxed);
    }
    Native::fence_acquire();
    return slot.word.load(std::memory_order_relaxed) == word;
}

// False: the request makes no sense.
bool Server::perform(NativeMailSlot& slot) {
    const Request& r = request_;
    if (r.count > kBatch) return false;
    const auto say = [&](std::uint32_t i, Status status) {
        slot.items[i].status.store(static_cast<std::uint32_t>(status), std::memory_order_relaxed);
    };
    switch (r.kind) {
        case Ask::reserve:
            if (r.length == 0 || r.count == 0) return false;
            perform_reserve(slot);
            return true;
        case Ask::commit:
            for (std::uint32_t i = 0; i < r.count; ++i)
                say(i, keeper_.commit(r.owner, r.items[i].entry, r.items[i].generation,
                                      r.checked ? &r.items[i].checksum : nullptr));
            return true;
        case Ask::abort:
            for (std::uint32_t i = 0; i < r.count; ++i)
                say(i, keeper_.abort(r.owner, r.items[i].entry, r.items[i].generation));
            return true;
        case Ask::clear:
            keeper_.clear(r.has_parent ? &r.space : nullptr);
            return true;
        case Ask::suspect:
            for (std::uint32_t i = 0; i < r.count; ++i)
                say(i, keeper_.suspect(r.items[i].entry, r.items[i].generation));
            return true;
    }
    return false;
}

void Server::perform_reserve(NativeMailSlot& slot) {
    const Request& r = request_;
    Storing storing{.owner = r.owner, .length = r.length, .tenant = r.tenant, .space = r.space, .expected = r.count};
    std::uint32_t parent = kNoEntry;
    bool orphaned = false;
    if (r.has_parent && r.chained) {
        parent = keeper_.parent_of_chain(r.parent);
        orphaned = parent == kNoEntry;
    }
    for (std::uint32_t i = 0; i < r.count; ++i, --storing.expected) {
        MailItem& item = slot.items[i];
        Keeper::Reserved got{Status::orphan};
        if (!orphaned) got = keeper_.reserve(storing, r.items[i].key, parent);
        if (r.chained) {
            parent = got.entry;
            orphaned = got.entry == kNoEntry;
        }
        item.status.store(static_cast<std::uint32_t>(got.status), std::memory_order_relaxed);
        item.entry.store(got.entry, std::memory_order_relaxed);
        item.generation.store(got.entry == kNoEntry ? 0 : keeper_.generation_of_entry(got.entry),
                              std::memory_order_relaxed);
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
            keeper_.touch(static_cast<std::uint32_t>(touch >> 32), static_cast<std::uint32_t>(touch) & 0xffff);
        }
    }
}

}  // namespace ringcast::pool
