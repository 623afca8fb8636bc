#include "pool/server.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <span>

#include "errors.hpp"
#include "locks.hpp"
#include "parking.hpp"
#include "platform/process.hpp"
#include "pool/mailbox.hpp"
#include "threads.hpp"

namespace ringcast::pool {

namespace {

// How often it looks after seats and reservations while there are any. A dead client's memory is back within a second.
constexpr std::int64_t kLookNs = 250'000'000;
// How long a server that ends waits for what its tiers are doing.
constexpr std::int64_t kTiersEndNs = 5'000'000'000;

// Keys of a request whose memory is fetched at a time.
constexpr std::uint32_t kFetched = 16;
constexpr Owner kServer{.seat = kServersOwn, .incarnation = 0, .slot = 0, .request = 0};

// Four texts with their lengths, two numbers, and a byte: docs/keys.md.
bool is_space(std::span<const std::byte> bytes) {
    for (int text = 0; text < 4; ++text) {
        std::uint32_t length = 0;
        if (bytes.size() < sizeof length) return false;
        std::memcpy(&length, bytes.data(), sizeof length);
        bytes = bytes.subspan(sizeof length);
        if (length > bytes.size()) return false;
        bytes = bytes.subspan(length);
    }
    return bytes.size() == 2 * sizeof(std::uint32_t) + 1;
}

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
    : memory_(opened(options.memory, adopted_)),
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
    keeper_.read_clock();
    if (mail_phase(word) == MailPhase::asked) {
        if (is_deferred(request_.owner)) return;
        if (copy(slot, word)) {
            const Done done = perform(slot);
            if (done == Done::later) return;
            slot.refused.store(static_cast<std::uint32_t>(done == Done::yes ? Refusal::none : Refusal::senseless),
                               std::memory_order_relaxed);
            if (done == Done::no) memory_->words().refused.fetch_add(1, std::memory_order_relaxed);
            Native::reached(FaultPoint::pool_answer_begin);
            answered = answer<Native>(slot.word, number);
        }
    }
    if (answered) {
        Native::reached(FaultPoint::pool_answered);
        Native::fence_seq_cst();  // [signal]
        unpark<Native>(slot.parked);
        note_misses();
        return;
    }
    if (slot.word.load(std::memory_order_relaxed) != mail_word(number, MailPhase::withdrawn)) return;
    std::erase_if(deferred_, [&](const DeferredRequest& one) {
        if (one->owner.seat != seat || one->owner.slot != i) return false;
        one->over = true;
        return true;
    });
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
    r.parts = slot.parts.load(std::memory_order_relaxed);
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

bool Server::is_deferred(const Owner& owner) const noexcept {
    return std::ranges::any_of(deferred_, [&](const DeferredRequest& one) {
        return one->owner.seat == owner.seat && one->owner.slot == owner.slot &&
               one->owner.incarnation == owner.incarnation && one->owner.request == owner.request;
    });
}

Server::DeferredRequest Server::defer() {
    deferred_.push_back(std::make_shared<Deferred>(Deferred{request_.owner}));
    return deferred_.back();
}

// A server that dies before leaves it asked, and the next one does it again.
void Server::answer_deferred(const DeferredRequest& request, Refusal refusal) noexcept {
    if (request->over) return;
    std::erase(deferred_, request);
    const Owner& owner = request->owner;
    NativeMailSlot& slot = memory_->seat(owner.seat).mail[owner.slot];
    slot.refused.store(static_cast<std::uint32_t>(refusal), std::memory_order_relaxed);
    Native::reached(FaultPoint::pool_answer_begin);
    if (!answer<Native>(slot.word, owner.request)) return;  // it is forgotten when it is found withdrawn
    Native::reached(FaultPoint::pool_answered);
    Native::fence_seq_cst();  // [signal]
    unpark<Native>(slot.parked);
}

// `no`: the request makes no sense.
Server::Done Server::perform(NativeMailSlot& slot) {
    const Request& r = request_;
    if (r.count > kBatch) return Done::no;
    const auto say = [&](std::uint32_t i, Status status) {
        slot.items[i].status.store(static_cast<std::uint32_t>(status), std::memory_order_relaxed);
    };
    switch (r.kind) {
        case Ask::reserve:
            if (r.count == 0 || !has_parts(r.length, r.parts)) return Done::no;
            perform_reserve(slot);
            return Done::yes;
        case Ask::commit:
            for (std::uint32_t i = 0; i < r.count; ++i)
                say(i, keeper_.commit(r.owner, r.items[i].entry, r.items[i].generation, r.parts,
                                      r.checked ? &r.items[i].checksum : nullptr));
            return Done::yes;
        case Ask::abort:
            for (std::uint32_t i = 0; i < r.count; ++i)
                say(i, keeper_.abort(r.owner, r.items[i].entry, r.items[i].generation));
            return Done::yes;
        case Ask::clear:
            return perform_clear();
        case Ask::suspect:
            for (std::uint32_t i = 0; i < r.count; ++i)
                say(i, keeper_.suspect(r.items[i].entry, r.items[i].generation));
            return Done::yes;
        case Ask::describe:
            return perform_describe() ? Done::yes : Done::no;
        case Ask::promote:
            if (r.length == 0 || r.count == 0) return Done::no;
            return perform_promote();
        case Ask::join:
            return perform_join(slot) ? Done::yes : Done::no;
    }
    return Done::no;
}

Server::Done Server::perform_clear() {
    keeper_.clear(request_.has_parent ? &request_.space : nullptr);
    if (!tiers_->any()) return Done::yes;
    tiers_->clear(!request_.has_parent, [this, request = defer()](bool certain) {
        answer_deferred(request, certain ? Refusal::none : Refusal::not_cleared);
    });
    return Done::later;
}

// What of it is in tiers comes into memory, or will: its client sees that in the index, and is answered when all of it can be
// seen there.
Server::Done Server::perform_promote() {
    const Request& r = request_;
    struct Wanted {
        Storing storing;
        bool chained;
        std::vector<Digest> keys;
        std::uint32_t parent;
        DeferredRequest request;
    };
    Storing storing{.owner = kServer, .length = r.length, .tenant = r.tenant, .space = r.space, .expected = r.count};
    std::uint32_t parent = kNoEntry;
    if (r.has_parent && r.chained) {
        parent = keeper_.entry_of(r.parent);
        if (parent == kNoEntry) return Done::yes;
    }
    std::vector<Digest> unknown;
    for (std::uint32_t i = 0; i < r.count; ++i, --storing.expected) {
        const Digest& key = r.items[i].key;
        const std::uint32_t e = keeper_.entry_of(key);
        if (e == kNoEntry) {
            if (r.chained) {  // so is what comes behind it
                for (std::uint32_t k = i; k < r.count; ++k) unknown.push_back(r.items[k].key);
                break;
            }
            unknown.push_back(key);
            continue;
        }
        if (keeper_.state_of_entry(e) == EntryState::tiered && tiers_->bring(storing, e) != Status::pending &&
            r.chained)
            return Done::yes;
        parent = e;
    }
    if (unknown.empty() || !tiers_->asks()) return Done::yes;
    auto wanted = std::make_shared<Wanted>(Wanted{storing, r.chained, unknown, r.chained ? parent : kNoEntry, defer()});
    const std::uint32_t generation = parent == kNoEntry ? 0 : keeper_.generation_of_entry(parent);
    tiers_->find(std::move(unknown), r.chained, [this, wanted, generation](std::span<const std::uint32_t> found) {
        std::uint32_t before = wanted->parent;
        const bool is_there = before == kNoEntry || (keeper_.generation_of_entry(before) == generation &&
                                                     (keeper_.state_of_entry(before) == EntryState::present ||
                                                      keeper_.state_of_entry(before) == EntryState::reserved));
        for (std::size_t i = 0; i < found.size() && is_there; ++i) {
            if (found[i] == 0) {
                if (wanted->chained) break;
                continue;
            }
            const auto got = tiers_->bring_from(found[i] - 1, wanted->storing, wanted->keys[i], before);
            if (!wanted->chained) continue;
            if (got.entry == kNoEntry) break;
            before = got.entry;
        }
        answer_deferred(wanted->request, Refusal::none);
    });
    return Done::later;
}

void Server::perform_reserve(NativeMailSlot& slot) {
    const Request& r = request_;
    Storing storing{.owner = r.owner,
                    .length = r.length,
                    .parts = r.parts,
                    .tenant = r.tenant,
                    .space = r.space,
                    .expected = r.count};
    std::uint32_t parent = kNoEntry;
    bool orphaned = false;
    Status without_parent = Status::orphan;
    missed_.clear();
    if (r.has_parent && r.chained) {
        parent = keeper_.entry_of(r.parent);
        orphaned = parent == kNoEntry;
        if (!orphaned && keeper_.state_of_entry(parent) == EntryState::tiered) {
            // It comes into memory, where it is pending as if somebody else stored it.
            Storing its = storing;
            its.owner = kServer;
            its.parts = 1;
            const Status brought = tiers_->bring(its, parent);
            orphaned = brought != Status::pending;
            if (brought == Status::no_memory) without_parent = brought;
        }
    }
    for (std::uint32_t i = 0; i < r.count; ++i, --storing.expected) {
        if (i % kFetched == 0)
            for (std::uint32_t k = i; k < std::min(i + kFetched, r.count); ++k) keeper_.fetch(r.items[k].key);
        MailItem& item = slot.items[i];
        Keeper::Reserved got{without_parent};
        if (!orphaned) got = keeper_.reserve(storing, r.items[i].key, parent);
        if (got.status == Status::reserved) missed_.push_back(got.entry);
        if (r.chained) {
            parent = got.entry;
            orphaned = got.entry == kNoEntry;
            without_parent = Status::orphan;
        }
        item.status.store(static_cast<std::uint32_t>(got.status), std::memory_order_relaxed);
        item.entry.store(got.entry, std::memory_order_relaxed);
        item.generation.store(got.entry == kNoEntry ? 0 : keeper_.generation_of_entry(got.entry),
                              std::memory_order_relaxed);
    }
}

// One part of all of the chunks, or of none: `cached` is said of those that alone could have been had. Of a `pending` one
// the answer's entry is the seat of who has it.
bool Server::perform_join(NativeMailSlot& slot) {
    const Request& r = request_;
    if (r.parts >= kMaxParts) return false;
    std::array<Status, kBatch> may;
    bool all = true;
    for (std::uint32_t i = 0; i < r.count; ++i) {
        const Request::Item& item = r.items[i];
        may[i] = keeper_.may_join(r.owner, item.entry, item.generation, r.parts);
        all = all && may[i] == Status::reserved;
        if (may[i] == Status::pending)
            slot.items[i].entry.store(keeper_.who_joined(item.entry, r.parts), std::memory_order_relaxed);
    }
    for (std::uint32_t i = 0; i < r.count; ++i) {
        if (all) keeper_.join(r.owner, r.items[i].entry, r.parts);
        if (!all && may[i] == Status::reserved) may[i] = Status::cached;
        slot.items[i].status.store(static_cast<std::uint32_t>(may[i]), std::memory_order_relaxed);
    }
    return true;
}

// A namespace: its digest is `parent`, the salt's the first key, and the keys behind that are the bytes. Who stores says what
// he stores; a record that is not one is refused, and whether it tells the truth only matters to whoever reads it.
bool Server::perform_describe() {
    const Request& r = request_;
    if (!r.has_parent || r.length > kSpaceBytes || r.count != 1 + (r.length + kDigestBytes - 1) / kDigestBytes)
        return false;
    std::array<std::byte, (kBatch + 1) * kDigestBytes> bytes;
    for (std::uint32_t i = 1; i < r.count; ++i)
        std::memcpy(&bytes[(i - 1) * kDigestBytes], &r.items[i].key, kDigestBytes);
    if (!is_space({bytes.data(), r.length})) return false;
    for (SpaceRecord& record : memory_->spaces()) {
        if (record.written.load(std::memory_order_relaxed) != 0) {
            if (record.digest == r.parent) return true;
            continue;
        }
        record.length = r.length;
        record.digest = r.parent;
        record.salt_digest = r.items[0].key;
        std::memcpy(record.bytes, bytes.data(), r.length);
        Native::reached(FaultPoint::pool_space_written);
        record.written.store(1, std::memory_order_release);  // release [space]
        return true;
    }
    memory_->words().spaces_without_room.fetch_add(1, std::memory_order_relaxed);
    return true;
}

// What was found there, for the curve of hit rates.
void Server::note_access(std::uint32_t entry, std::uint32_t ancestors) {
    accessed_.clear();
    keeper_.for_each_of_chain(entry, ancestors, [&](std::uint32_t e) { accessed_.push_back(keeper_.key_of(e)); });
    std::ranges::reverse(accessed_);
    if (!accessed_.empty()) meter_->note(accessed_, {});
}

// What was reserved had been missed.
void Server::note_misses() {
    if (request_.kind != Ask::reserve || missed_.empty()) return;
    if (!meter_->begun()) {
        const PoolHeader& header = memory_->header();
        const std::uint64_t chunks = std::clamp<std::uint64_t>(header.capacity / request_.length, 1, header.n_entries);
        meter_->begin(static_cast<std::uint32_t>(chunks));
    }
    const auto note = [&](std::size_t begin, std::size_t end) {
        std::optional<Digest> after;
        keeper_.for_each_ancestor(missed_[begin], [&](std::uint32_t e) {
            if (meter_->samples(keeper_.key_of(e))) after = keeper_.key_of(e);
            return !after;
        });
        accessed_.clear();
        for (std::size_t i = begin; i < end; ++i) accessed_.push_back(keeper_.key_of(missed_[i]));
        meter_->note(accessed_, after);
    };
    if (request_.chained) return note(0, missed_.size());
    for (std::size_t i = 0; i < missed_.size(); ++i) note(i, i + 1);
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

}  // namespace ringcast::pool
