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

constexpr std::uint32_t kWindow = 16;  // keys whose memory is fetched at a time

[[noreturn]] void throw_no_server(const PoolMemory& memory, const char* why) {
    throw Error(ErrorCode::segment_not_found, memory.label() + " has no living server: " + why, ENOENT);
}

// Whoever has the seat's lock says who it is.
void introduce(NativePoolSeat& seat, PoolSeatState as, const std::string& worker_id) {
    seat.pid.store(platform::process_id(), std::memory_order_relaxed);
    seat.pid_namespace.store(platform::pid_namespace(), std::memory_order_relaxed);
    seat.since_ns.store(platform::wall_clock_ns(), std::memory_order_relaxed);
    copy_text(seat.worker_id, sizeof seat.worker_id, worker_id);
    for (auto* count : {&seat.counters.lookups, &seat.counters.keys_looked_up, &seat.counters.keys_found,
                        &seat.counters.retrieves, &seat.counters.keys_retrieved, &seat.counters.hits})
        count->store(0, std::memory_order_relaxed);
    const std::uint32_t incarnation = seat_incarnation(seat.state.load(std::memory_order_relaxed)) + 1;
    seat.state.store(seat_word(incarnation, as), std::memory_order_release);  // release [seat]
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
        platform::nap();
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
    for (std::uint32_t i = 0; i < kMailSlots; ++i) {
        own.mail[i].parked.word.store(0, std::memory_order_relaxed);  // a dead holder may have slept
        numbers_[i] = mail_number(own.mail[i].word.load(std::memory_order_relaxed));
    }
    introduce(own, PoolSeatState::taken, options.worker_id);
    Native::reached(FaultPoint::pool_seat_taken);
    heirs_.emplace(static_cast<Estate&>(*this));
}

Client::~Client() {
    close();
    heirs_.reset();
    // What a child has for good is held until this process ends.
    if (!in_forked_child() && row_.keeps_any()) (void)memory_.release();
}

void Client::close() noexcept {
    if (in_forked_child() || closed_.exchange(true, std::memory_order_relaxed)) return;
    const std::lock_guard guard(pinning_);
    leave_if_done();
}

void Client::leave_if_done() noexcept {
    if (!closed() || left_ || row_.held() != 0) return;
    {
        const std::lock_guard guard(slots_);  // a call that begins after this finds the client closed
        if (slots_in_use_ != 0) return;
    }
    left_ = true;
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
    struct Search {
        Index<Native>::Where where;
        std::uint32_t side;
        std::uint32_t candidates;
    } searches[kWindow];
    // What each pass reads, the one before has asked for: the first bucket; its candidates' entry or the second bucket.
    for (std::size_t from = 0; from < keys.size(); from += kWindow) {
        const auto n = static_cast<std::uint32_t>(std::min<std::size_t>(kWindow, keys.size() - from));
        const auto prefetch_entry = [&](const Search& of) {
            const std::uint32_t entry = index.first_of(of.where, of.side, of.candidates);
            if (entry != kNoEntry) __builtin_prefetch(&index.entries[entry]);
        };
        for (std::uint32_t i = 0; i < n; ++i) {
            searches[i].where = index.where(keys[from + i]);
            index.prefetch(searches[i].where, 0);
        }
        for (Search& of : std::span(searches, n)) {
            of.side = 0;
            of.candidates = index.candidates(of.where, 0);
            if (of.candidates != 0)
                prefetch_entry(of);
            else
                index.prefetch(of.where, 1);
        }
        for (Search& of : std::span(searches, n)) {
            if (of.candidates != 0) continue;
            of.side = 1;
            of.candidates = index.candidates(of.where, 1);
            if (of.candidates != 0) prefetch_entry(of);
        }
        for (std::uint32_t i = 0; i < n; ++i) {
            const Search& of = searches[i];
            const auto found = index.find(keys[from + i], of.where, of.side, of.candidates);
            if (found.entry == kNoEntry || state_of(found.word) != EntryState::present) {
                if (found.entry != kNoEntry && state_of(found.word) == EntryState::reserved) stopped = Status::pending;
                if (found.entry != kNoEntry && state_of(found.word) == EntryState::tiered) stopped = Status::tiered;
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
                           : state == EntryState::tiered   ? Status::tiered
                                                           : Status::miss);
    }
}

Client::Counted Client::lookup(std::span<const Digest> keys) const {
    const Index<Native>& index = memory_->index();
    thread_local std::vector<Look> looks;
    Status stopped{};
    find_leading(keys, looks, stopped);
    const auto memory = static_cast<std::uint32_t>(looks.size());
    for (std::size_t i = memory; stopped == Status::tiered && i < keys.size(); ++i) {
        const auto found = index.find(keys[i]);
        if (found.entry == kNoEntry) break;
        if (state_of(found.word) != EntryState::tiered && state_of(found.word) != EntryState::present) break;
        looks.push_back({found.entry, found.word});
    }
    const std::uint32_t total = index.confirmed(looks);
    return {std::min(memory, total), total};
}

Pinned<Native> Client::pin(std::span<const Look> looks, Places& places) {
    const std::lock_guard guard(pinning_);
    if (left_) return {};
    const std::size_t first = places.size();
    const auto pinned = pin_leading(memory_->index(), row_, looks, places);
    Native::reached(FaultPoint::pool_pinned);
    note_since(std::span(places).subspan(std::min(first, places.size())));
    return pinned;
}

bool Client::pin_each(std::span<const Look> looks, Places& places, std::vector<bool>& pinned, std::uint32_t part) {
    pinned.assign(looks.size(), false);
    const std::lock_guard guard(pinning_);
    if (left_) return true;
    std::vector<std::uint32_t> got(looks.size(), PinRow<Native>::kFull);
    bool room = true;
    for (std::size_t i = 0; i < looks.size(); ++i) {
        if (looks[i].entry == kNoEntry) continue;
        got[i] = row_.put(looks[i].entry, generation_of(looks[i].word), part);
        if (got[i] == PinRow<Native>::kFull) room = false;
    }
    Native::fence_seq_cst();  // [pin]
    for (std::size_t i = 0; i < looks.size(); ++i) {
        if (got[i] == PinRow<Native>::kFull) continue;
        if (memory_->index().is_unchanged(looks[i])) {
            pinned[i] = true;
            const auto look = static_cast<std::uint32_t>(i);
            places.push_back({got[i], look, look});
        } else {
            row_.clear(got[i]);
        }
    }
    note_since(places);
    return room;
}

void Client::note_since(std::span<const Place> places) noexcept {
    auto* const since = pinned_since(memory_->own_seat(), memory_->header().n_pins);
    const std::uint32_t now = platform::coarse_milliseconds();
    for (const Place& place : places) since[place.at].store(now, std::memory_order_relaxed);
}

void Client::unpin(Places& places) noexcept {
    if (places.empty() || in_forked_child()) return;
    Native::reached(FaultPoint::pool_unpin_begin);
    const std::lock_guard guard(pinning_);
    for (const Place& place : places) row_.clear(place.at);
    places.clear();
    leave_if_done();
}

bool Client::knows_space(const Digest& space) {
    const std::lock_guard guard(slots_);
    if (!known_spaces_.empty() && known_spaces_.back() == space) return true;
    if (const auto known = std::ranges::find(known_spaces_, space); known != known_spaces_.end()) {
        std::iter_swap(known, std::prev(known_spaces_.end()));
        return true;
    }
    const bool recorded = std::ranges::any_of(memory_->spaces(), [&](const SpaceRecord& record) {
        return record.written.load(std::memory_order_acquire) != 0 && record.digest == space;  // acquire [space]
    });
    if (recorded) known_spaces_.push_back(space);
    return recorded;
}

void Client::told_space(const Digest& space) {
    const std::lock_guard guard(slots_);
    known_spaces_.push_back(space);
}

void Client::unpin(const Place& place) noexcept {
    if (in_forked_child()) return;
    Native::reached(FaultPoint::pool_unpin_begin);
    const std::lock_guard guard(pinning_);
    row_.clear(place.at);
    leave_if_done();
}

void Client::shorten(const Place& place, const Look& to) noexcept {
    if (in_forked_child()) return;
    const std::lock_guard guard(pinning_);
    row_.move(place.at, to.entry, generation_of(to.word));
}

std::uint32_t Client::room() noexcept {
    const std::lock_guard guard(pinning_);
    return row_.room();
}

bool Client::holds(const Look& look) noexcept {
    const std::lock_guard guard(pinning_);
    return row_.holds(look.entry, generation_of(look.word));
}

std::uint32_t Client::held() noexcept {
    const std::lock_guard guard(pinning_);
    return row_.held();
}

void Client::touch(std::uint32_t entry, std::uint32_t ancestors, bool by_store) noexcept {
    NativePoolSeat& own = memory_->own_seat();
    const std::lock_guard guard(pinning_);
    if (left_) return;
    const std::uint64_t n = own.touched.load(std::memory_order_relaxed);
    own.touches[n % kTouches].store(touch_word(entry, ancestors, by_store), std::memory_order_relaxed);
    own.touched.store(n + 1, std::memory_order_release);  // release [touch]
}

namespace {

// 0 is of nothing: what has never been looked at.
std::uint64_t intact_mark(const Look& look, Part part) noexcept {
    return std::uint64_t{part.number + 1} << 32 | generation_of(look.word);
}

}  // namespace

std::uint32_t Client::sum_of(std::uint32_t entry, Part part) const noexcept {
    if (part.of == 1) return memory_->index().entries[entry].checksum.load(std::memory_order_relaxed);
    return part_sum(memory_->data() + block(entry), length(entry), part.of, part.number);
}

bool Client::is_intact(const Look& look, Part part) {
    const NativeEntry& entry = memory_->index().entries[look.entry];
    if (entry.checked.load(std::memory_order_relaxed) == 0) return true;
    auto& seen = intact_[look.entry];
    const std::uint64_t mark = intact_mark(look, part);
    if (seen.load(std::memory_order_relaxed) == mark) return true;
    const std::byte* const bytes = memory_->data() + offset(look.entry, part);
    if (checksum_of({bytes, part_bytes(length(look.entry), part.of)}) != sum_of(look.entry, part)) return false;
    seen.store(mark, std::memory_order_relaxed);
    return true;
}

bool Client::is_intact(const Look& look, Part part, std::uint32_t found) noexcept {
    const NativeEntry& entry = memory_->index().entries[look.entry];
    if (entry.checked.load(std::memory_order_relaxed) == 0) return true;
    const bool same = found == sum_of(look.entry, part);
    intact_[look.entry].store(same ? intact_mark(look, part) : 0, std::memory_order_relaxed);
    return same;
}

// --- Forked children.

// Until the parent's pins are cleared, by this process and later, or the parent is gone, they hold all of this. So who
// finds them cleared (acquire [unpin]), or their lock free, finds these, which are behind them: seats are asked by rising
// numbers. Clients take the first seats, so that of children is the last one.
std::uint32_t Client::make_image(int locks) noexcept {
    const PoolHeader& header = memory_->header();
    for (std::uint32_t i = header.n_seats - 1; i > seat_; --i) {
        const auto is_vacant = [&] {
            return seat_state(memory_->seat(i).state.load(std::memory_order_acquire)) == PoolSeatState::vacant;
        };  // acquire [seat]
        if (!is_vacant() || !platform::try_lock_on(locks, seat_lock(i), platform::Sharing::exclusive)) continue;
        if (!is_vacant()) return kNoSeat;  // a client came and went: its seat is the server's to give back
        try {
            image_ = memory_->map_seat(i);
        } catch (const Error&) {
            return kNoSeat;
        }
        const NativePoolSeat& mine = memory_->own_seat();
        auto& image = *reinterpret_cast<NativePoolSeat*>(image_.begin());
        introduce(image, PoolSeatState::inherited, text_of(mine.worker_id, sizeof mine.worker_id));
        const std::uint32_t used = mine.pins_used.load(std::memory_order_relaxed);
        auto* const since = pinned_since(image, header.n_pins);
        const auto* const our_since = pinned_since(mine, header.n_pins);
        for (std::uint32_t k = 0; k < used; ++k) {
            since[k].store(our_since[k].load(std::memory_order_relaxed), std::memory_order_relaxed);
            image.pins[k].store(mine.pins[k].load(std::memory_order_relaxed), std::memory_order_relaxed);
        }
        image.pins_used.store(used, std::memory_order_relaxed);
        return i;
    }
    return kNoSeat;
}

void Client::inherited(std::uint32_t) noexcept {
    reinterpret_cast<NativePoolSeat*>(image_.begin())->pid.store(platform::process_id(), std::memory_order_relaxed);
}

}  // namespace ringcast::pool
