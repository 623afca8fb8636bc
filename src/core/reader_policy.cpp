#include "reader_policy.hpp"

#include <algorithm>

#include "board.hpp"
#include "platform/process.hpp"
#include "ranks.hpp"
#include "readiness.hpp"

namespace ringcast {

ReaderWatch::ReaderWatch(Segment& segment, RingWriter<Native>& writer, const ReaderPolicy& policy)
    : segment_(segment), writer_(writer), policy_(policy), told_(segment.geometry().n_reader) {}

bool ReaderWatch::promise() {
    auto& control = *segment_.ring().control;
    if (!segment_.named()) return true;
    control.promised.store(1, std::memory_order_relaxed);
    std::uint32_t index = 0;
    while ((index = promised_ranks_.load(std::memory_order_relaxed)) < homes()) {
        if (!(index < segment_.ranks().size() ? expect(index) : expect_elsewhere(index))) return false;
        promised_ranks_.compare_exchange_strong(index, index + 1, std::memory_order_relaxed);
    }
    return true;
}

// False: somebody is just taking the rank's seat, or leaving it, and it is not certain yet what becomes of that.
bool ReaderWatch::expect(std::uint32_t index) {
    const auto& ring = segment_.ring();
    const std::uint32_t rank = segment_.ranks()[index];
    const auto& locks = segment_.locks();
    if (!locks.try_lock(rank_lock(rank))) return has_reader(ring, rank);
    // A reader that died holds a promise already, in whichever seat it had.
    bool kept = false;
    for (std::uint32_t i = 0; i < ring.n_seats; ++i)
        kept = kept || (is_held(ring.seats[i].state.load(std::memory_order_relaxed)) &&
                        ring.seats[i].rank.load(std::memory_order_relaxed) == rank);
    if (!kept && locks.try_lock(seat_lock(index))) {
        ring.seats[index].pid.store(0, std::memory_order_relaxed);
        kept = expect_reader(ring, ring.seats[index]);
        locks.unlock(seat_lock(index));
    }
    locks.unlock(rank_lock(rank));
    return kept;
}

// Of a seat for a reader on another machine, which nobody takes before a handle has been exported.
bool ReaderWatch::expect_elsewhere(std::uint32_t home) {
    const auto& ring = segment_.ring();
    const auto& locks = segment_.locks();
    if (gates(ring.seats[home].state.load(std::memory_order_relaxed))) return true;
    if (!locks.try_lock(seat_lock(home))) return false;
    const bool kept = expect_reader(ring, ring.seats[home]);
    locks.unlock(seat_lock(home));
    return kept;
}

std::vector<Loss> ReaderWatch::departures() {
    std::vector<Loss> losses = new_departures();
    if (losses.empty() || policy_.left == ReaderPolicy::Left::log) return losses;
    std::string who;
    for (const Loss& loss : losses)
        who += (who.empty() ? "" : ", ") + ("the reader of rank " + std::to_string(loss.rank)) + " (pid " +
               std::to_string(loss.pid) + ") has left, and has not read message " + std::to_string(loss.first) +
               (loss.absent ? " and what follows" : " and others before somebody took its rank");
    throw Error(ErrorCode::reader_left,
                who + "; send again to go on without it, or wait_until_ready() for the next one",
                Peer{losses.front().rank, losses.front().pid});
}

std::vector<Loss> ReaderWatch::new_departures() {
    const auto& ring = segment_.ring();
    departures_ = readers_that_left(ring);
    std::vector<Loss> losses;
    if (!segment_.is_promised()) return losses;
    for (std::uint32_t i = 0; i < told_.size(); ++i) {
        const NativeSeat& home = ring.seats[i];
        Told& told = told_[i];
        const std::uint64_t since = home.missing_since.load(std::memory_order_relaxed);
        const std::uint64_t missed = home.missed_by_leaving.load(std::memory_order_relaxed);
        const std::uint32_t pid = home.left_pid.load(std::memory_order_relaxed);
        const std::uint32_t rank = segment_.rank_of(i);
        const std::uint64_t head = writer_.position();
        if (pid != 0 && since != 0 && since != told.since)
            losses.push_back({rank, pid, Loss::Cause::left, since - 1, head + 1 - since, true});
        else if (since == 0 && told.since == 0 && missed > told.missed)  // and somebody has come since
            losses.push_back(
                {rank, pid, Loss::Cause::left, head - (missed - told.missed), missed - told.missed, false});
        told = {pid == 0 ? 0 : since, missed};
    }
    return losses;
}

std::vector<Loss> ReaderWatch::final_losses() {
    std::vector<Loss> losses = new_departures();
    std::erase_if(losses, [](const Loss& loss) { return loss.count == 0; });
    const auto& ring = segment_.ring();
    const std::uint64_t head = writer_.position();
    for (std::uint32_t i = 0; i < ring.n_seats; ++i) {
        const NativeSeat& seat = ring.seats[i];
        const std::uint64_t word = seat.state.load(std::memory_order_acquire);  // acquire [join]
        const std::uint64_t cursor = seat.cursor.load(std::memory_order_relaxed);
        // Who has not come is not told of here.
        if (seat_state(word) == SeatState::lapsed || seat_state(word) == SeatState::expected || cursor >= head ||
            is_stream(ring, i) || !is_gone(i, word))
            continue;
        losses.push_back({seat.rank.load(std::memory_order_relaxed), seat.pid.load(std::memory_order_relaxed),
                          Loss::Cause::died, cursor, head - cursor, true});
    }
    for (std::uint32_t i = 0; i < ring.n_remote; ++i) {
        const NativePlacement& placement = ring.board[i];
        const PlacementState state = placement_state(placement);
        const bool untold = placement.told.load(std::memory_order_relaxed) != static_cast<std::uint32_t>(state);
        if (state != PlacementState::died && state != PlacementState::lost &&
            (state != PlacementState::evicted || !untold))
            continue;
        const std::uint32_t stream = placement.stream.load(std::memory_order_relaxed);
        const std::uint64_t there =
            stream < ring.n_seats ? ring.seats[stream].cursor.load(std::memory_order_relaxed) : head;
        const std::uint64_t lacking =
            std::min(head, head - std::min(head, there) + placement.behind.load(std::memory_order_relaxed));
        if (lacking != 0)
            losses.push_back({placement.rank.load(std::memory_order_relaxed),
                              placement.pid.load(std::memory_order_relaxed), Loss::Cause::died, head - lacking, lacking,
                              true});
    }
    return losses;
}

bool ReaderWatch::is_gone(std::uint32_t seat, std::uint64_t word, bool ask_kernel) const {
    const SeatState state = seat_state(word);
    if (state == SeatState::failed || state == SeatState::lapsed) return true;
    if (ask_kernel && kept_for_elsewhere(seat, word))
        return link_is_gone() && segment_.ring().seats[seat].state.load(std::memory_order_acquire) == word;
    if (state != SeatState::active || !ask_kernel || segment_.locks().is_held_by_another(seat_lock(seat))) return false;
    // Else it left just now, or a restarted reader has taken it over.
    return segment_.ring().seats[seat].state.load(std::memory_order_acquire) == word;
}

std::optional<Eviction> ReaderWatch::drop_gone(std::uint32_t seat, std::uint64_t word) {
    const bool linkless = kept_for_elsewhere(seat, word);
    if (policy_.dead == ReaderPolicy::Dead::evict)
        return evict_seat(seat, word, linkless ? Eviction::Cause::linkless : Eviction::Cause::dead);
    if (linkless) throw_link_gone();
    const NativeSeat& s = segment_.ring().seats[seat];
    if (is_stream(segment_.ring(), seat)) {
        if (seat_state(word) != SeatState::lapsed && !writer_.lapse(seat, word)) return std::nullopt;
        throw_stream_gone(seat);
    }
    const Peer peer{s.rank.load(std::memory_order_relaxed), s.pid.load(std::memory_order_relaxed)};
    const bool failed = seat_state(word) == SeatState::failed;
    if (seat_state(word) != SeatState::lapsed && !writer_.lapse(seat, word))
        return std::nullopt;  // a restarted reader has come just now
    throw Error(ErrorCode::reader_died,
                "the reader of rank " + std::to_string(*peer.rank) + " (pid " + std::to_string(peer.pid) + ") " +
                    (failed ? "was ended by an exception" : "died without leaving its seat") +
                    "; evict(rank) goes on without it, as on_reader_death=\"evict\" does",
                peer);
}

void ReaderWatch::throw_stream_gone(std::uint32_t seat) {
    std::optional<Peer> first;
    visit_stream(segment_.ring(), seat, [&](std::uint32_t, const NativePlacement& placement) {
        if (!first)
            first = Peer{placement.rank.load(std::memory_order_relaxed), placement.pid.load(std::memory_order_relaxed)};
    });
    throw Error(ErrorCode::reader_died,
                describe_stream(seat) +
                    " is lost, and with it who reads through it; evict(rank) goes on without them, as "
                    "on_reader_death=\"evict\" does",
                first);
}

void ReaderWatch::throw_link_gone() const {
    throw Error(
        ErrorCode::reader_died,
        link_->link() + " on host " + host_ +
            " has died or ended, so the readers on other machines that have not come cannot come any more; make "
            "the queue anew, and give them its handle. on_reader_death=\"evict\" goes on without them");
}

void ReaderWatch::check_stream(std::uint32_t seat) {
    if (policy_.dead == ReaderPolicy::Dead::evict) return;
    visit_stream(segment_.ring(), seat, [&](std::uint32_t, NativePlacement& placement) {
        constexpr auto kDied = static_cast<std::uint32_t>(PlacementState::died);
        if (placement_state(placement) != PlacementState::died ||
            placement.told.exchange(kDied, std::memory_order_relaxed) == kDied)
            return;
        const Peer peer{placement.rank.load(std::memory_order_relaxed), placement.pid.load(std::memory_order_relaxed)};
        throw Error(ErrorCode::reader_died,
                    "the reader of rank " + std::to_string(*peer.rank) + " (host " +
                        text_of(placement.host, sizeof placement.host) + ", pid " + std::to_string(peer.pid) +
                        ") died without leaving its seat; evict(rank) goes on without it, as "
                        "on_reader_death=\"evict\" does",
                    peer);
    });
}

std::vector<Reach> ReaderWatch::reach() {
    constexpr auto kCut = static_cast<std::uint32_t>(PlacementState::cut);
    std::vector<Reach> changes;
    const auto& ring = segment_.ring();
    for (std::uint32_t i = 0; i < ring.n_remote; ++i) {
        NativePlacement& placement = ring.board[i];
        const PlacementState state = placement_state(placement);
        const bool told = placement.told.load(std::memory_order_relaxed) == kCut;
        const bool cut = state == PlacementState::cut;
        if (cut == told || (!cut && state != PlacementState::attached)) continue;
        placement.told.store(cut ? kCut : 0, std::memory_order_relaxed);
        changes.push_back(
            {placement.rank.load(std::memory_order_relaxed), text_of(placement.host, sizeof placement.host), cut});
    }
    return changes;
}

std::vector<Eviction> ReaderWatch::evicted_elsewhere() {
    std::vector<Eviction> evictions;
    const auto& ring = segment_.ring();
    for (std::uint32_t i = 0; i < ring.n_remote; ++i) {
        NativePlacement& placement = ring.board[i];
        const PlacementState state = placement_state(placement);
        const std::uint32_t told = placement.told.load(std::memory_order_relaxed);
        if (state == PlacementState::attached || state == PlacementState::placed)
            placement.told.store(0, std::memory_order_relaxed);
        if (state != PlacementState::evicted || told == static_cast<std::uint32_t>(state)) continue;
        placement.told.store(static_cast<std::uint32_t>(state), std::memory_order_relaxed);
        const auto cause = static_cast<Eviction::Cause>(std::min(placement.cause.load(std::memory_order_relaxed), 2u));
        evictions.push_back({placement.rank.load(std::memory_order_relaxed),
                             placement.pid.load(std::memory_order_relaxed), cause,
                             placement.behind.load(std::memory_order_relaxed)});
    }
    return evictions;
}

std::optional<Eviction> ReaderWatch::evict_seat(std::uint32_t seat, std::uint64_t word,
                                                Eviction::Cause cause) noexcept {
    const NativeSeat& s = segment_.ring().seats[seat];
    const bool absent = seat_state(word) == SeatState::expected;
    const std::uint64_t head = segment_.ring().control->head.load(std::memory_order_relaxed);
    const Eviction eviction{kept_for_elsewhere(seat, word) ? kNobody : s.rank.load(std::memory_order_relaxed),
                            absent ? 0 : s.pid.load(std::memory_order_relaxed),
                            absent && cause == Eviction::Cause::slow ? Eviction::Cause::absent : cause,
                            head - std::min(head, s.cursor.load(std::memory_order_acquire))};
    return evict_at(seat, word) ? std::optional(eviction) : std::nullopt;
}

// A link that is just taking the seat may have written its own name there already.
bool ReaderWatch::kept_for_elsewhere(std::uint32_t seat, std::uint64_t word) const noexcept {
    const auto& ring = segment_.ring();
    return seat_state(word) == SeatState::expected && seat >= ring.n_local && seat < ring.n_local + ring.n_remote;
}

bool ReaderWatch::is_lost(std::uint32_t seat) const {
    if (seat >= segment_.ring().n_seats || !is_stream(segment_.ring(), seat)) return false;
    bool lost = true;
    visit_stream(segment_.ring(), seat, [&](std::uint32_t, const NativePlacement& placement) {
        const PlacementState state = placement_state(placement);
        const bool gone = state == PlacementState::left || state == PlacementState::evicted;
        lost = lost && (gone || state == PlacementState::lost);
    });
    return lost;
}

bool ReaderWatch::evict_at(std::uint32_t seat, std::uint64_t word) noexcept {
    const auto& ring = segment_.ring();
    if (!writer_.evict(seat, word)) return false;
    const NativeSeat& s = ring.seats[seat];
    if (!segment_.is_promised()) return true;
    const std::uint64_t cursor = s.cursor.load(std::memory_order_relaxed);
    const std::uint32_t rank = s.rank.load(std::memory_order_relaxed);
    visit_stream(ring, seat, [&](std::uint32_t index, const NativePlacement&) {
        note_absence(ring.seats[ring.n_local + index], cursor, 0);
    });
    const auto& ranks = segment_.ranks();
    const auto index = std::find(ranks.begin(), ranks.end(), rank) - ranks.begin();
    if (rank == kNobody || kept_for_elsewhere(seat, word))
        note_absence(ring.seats[seat], cursor, 0);
    else if (static_cast<std::size_t>(index) < ranks.size())
        note_absence(ring.seats[index], cursor, 0);
    return true;
}

std::optional<Eviction> ReaderWatch::check_all() {
    for (std::uint32_t i = 0; i < segment_.ring().n_seats; ++i) {
        const std::uint64_t word = segment_.ring().seats[i].state.load(std::memory_order_acquire);  // acquire [join]
        if (!is_gone(i, word)) continue;
        if (const auto eviction = drop_gone(i, word)) return eviction;
    }
    return std::nullopt;
}

bool ReaderWatch::evict(std::uint32_t rank) noexcept {
    const auto& ring = segment_.ring();
    bool any = false;
    for (std::uint32_t i = 0; i < ring.n_seats; ++i)
        if (ring.seats[i].rank.load(std::memory_order_relaxed) == rank)
            any = evict_at(i, ring.seats[i].state.load(std::memory_order_relaxed)) || any;
    for (std::uint32_t i = 0; i < ring.n_remote; ++i) {
        const NativePlacement& placement = ring.board[i];
        const PlacementState state = placement_state(placement);
        if (placement.rank.load(std::memory_order_relaxed) != rank) continue;
        const std::uint32_t stream = placement.stream.load(std::memory_order_relaxed);
        const std::uint64_t word = stream < ring.n_seats ? ring.seats[stream].state.load(std::memory_order_relaxed) : 0;
        const bool stream_is_gone = stream < ring.n_seats && is_stream(ring, stream) && is_gone(stream, word);
        if (state != PlacementState::lost && is_taken(state) && stream_is_gone) {
            any = evict_at(stream, word) || any;  // this machine's link has died
        } else if (state == PlacementState::lost) {
            // With all who read through it; unless the seat has been somebody else's since.
            any = (is_lost(stream) && evict_at(stream, word)) || any;
        } else if (is_taken(state) && state != PlacementState::left && state != PlacementState::evicted) {
            // Who wishes it need not be told of it.
            ring.board[i].told.store(static_cast<std::uint32_t>(PlacementState::evicted), std::memory_order_relaxed);
            ask_to_evict(ring, i);
            any = true;
        }
    }
    return any;
}

std::string ReaderWatch::describe(std::uint32_t seat, platform::Detail detail) const {
    const NativeSeat& s = segment_.ring().seats[seat];
    if (is_stream(segment_.ring(), seat)) return describe_stream(seat);
    if (s.rank.load(std::memory_order_relaxed) == kNobody)
        return "a reader on another machine (which has not attached)";
    const std::string rank = "the reader of rank " + std::to_string(s.rank.load(std::memory_order_relaxed));
    if (seat_state(s.state.load(std::memory_order_acquire)) == SeatState::expected)  // acquire [join]
        return rank + " (which has not attached)";
    return rank + " (" +
           platform::describe_process(s.pid.load(std::memory_order_relaxed),
                                      s.pid_namespace.load(std::memory_order_relaxed), detail) +
           ")";
}

// "the link to host B (rank 2, pid 77, 10 messages behind; rank 3, ...)", the furthest behind first.
std::string ReaderWatch::describe_stream(std::uint32_t seat) const {
    std::vector<const NativePlacement*> readers;
    visit_stream(segment_.ring(), seat,
                 [&](std::uint32_t, const NativePlacement& placement) { readers.push_back(&placement); });
    const auto behind = [](const NativePlacement* p) { return p->behind.load(std::memory_order_relaxed); };
    std::stable_sort(readers.begin(), readers.end(), [&](auto* a, auto* b) { return behind(a) > behind(b); });
    std::string text = "the link to ";
    text += readers.empty() ? "another machine" : "host " + text_of(readers.front()->host, kHostBytes);
    // Who is not behind is in nobody's way, if somebody is.
    if (!readers.empty() && behind(readers.front()) != 0)
        std::erase_if(readers, [&](auto* reader) { return behind(reader) == 0; });
    std::string who;
    for (const NativePlacement* reader : readers) {
        if (!who.empty()) who += "; ";
        who += "rank ";
        who += std::to_string(reader->rank.load(std::memory_order_relaxed));
        if (const std::uint32_t pid = reader->pid.load(std::memory_order_relaxed); pid != 0) {
            who += ", pid ";
            who += std::to_string(pid);
            who += ", ";
        } else {
            who += ", which has not attached, ";  // and nobody is about to
        }
        who += std::to_string(behind(reader));
        who += " behind there";
    }
    return who.empty() ? text : text + " (" + who + ")";
}

}  // namespace ringcast
