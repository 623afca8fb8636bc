#include "desk.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "errors.hpp"
#include "fault_points.hpp"
#include "parking.hpp"
#include "platform/clock.hpp"
#include "platform/process.hpp"

namespace ringcast {

namespace {

using platform::Native;

// How often an end looks again at a desk whose link is just looking whether anybody is there, 1 ms apart.
constexpr int kLooksAtClosing = 200;

Origin desk_origin(const std::byte* bytes) {
    DeskHeader header;
    std::memcpy(&header, bytes, sizeof header);
    return origin_in(header, text_of(header.job, sizeof header.job));
}

[[noreturn]] void throw_not_found(const std::string& name, const char* why) {
    throw Error(ErrorCode::segment_not_found, "segment '" + name + "' is the desk of a link that " + why, ENOENT);
}

}  // namespace

const AreaKind kDeskArea{.noun = "link",
                         .magic = kDeskMagic,
                         .layout_version = kDeskLayoutVersion,
                         .header_bytes = sizeof(DeskHeader),
                         .head_bytes = kDeskPlacesOffset,
                         .finished_word = kDeskControlOffset + offsetof(DeskControl, initialised),
                         .origin = &desk_origin};

MappedDesk::~MappedDesk() {
    // In a forked child the memory is its ancestor's: nothing is unmapped there.
    if (area_ != nullptr && area_->in_forked_child()) return;
    area_.reset();
    unmap();
}

void MappedDesk::map(const platform::SharedFile& file) {
    bytes_ = static_cast<std::byte*>(file.map(0, kDeskBytes, true));
    platform::exclude_from_core_dumps(bytes_, kDeskBytes);
}

void MappedDesk::unmap() noexcept {
    if (bytes_ != nullptr) platform::unmap(bytes_, kDeskBytes);
    bytes_ = nullptr;
}

void MappedDesk::initialise(const std::string& job, const std::string& release) {
    DeskHeader header{};
    header.magic = kDeskMagic;
    header.layout_version = kDeskLayoutVersion;
    header.byte_order = kByteOrder;
    header.total_bytes = kDeskBytes;
    header.epoch = platform::random_u64();
    copy_text(header.job, sizeof header.job, job);
    header.creator_pid = platform::process_id();
    header.places = kDeskPlaces;
    header.creator_pid_namespace = platform::pid_namespace();
    header.created_at_ns = platform::wall_clock_ns();
    copy_text(header.release, sizeof header.release, release);
    std::memcpy(bytes_, &header, sizeof header);
    new (&control()) DeskControl{};
    for (std::uint32_t i = 0; i < kDeskPlaces; ++i) new (&place(i)) DeskPlace{};
    control().initialised.store(1, std::memory_order_release);  // release [initialised]
}

std::unique_ptr<MappedDesk> MappedDesk::create(const std::string& name, const std::string& job,
                                               const std::string& release) {
    std::unique_ptr<MappedDesk> desk(new MappedDesk);
    desk->area_ = Area::create(kDeskArea, name, kDeskBytes, kDeskBytes, [&](const platform::SharedFile& file) {
        desk->unmap();
        desk->map(file);
        desk->initialise(job, release);
    });
    return desk;
}

std::unique_ptr<MappedDesk> MappedDesk::attach(const std::string& name, const std::string& release) {
    const auto check = [&](const std::byte* head) {
        DeskHeader header;
        std::memcpy(&header, head, sizeof header);
        if (header.total_bytes != kDeskBytes || header.places != kDeskPlaces)
            throw_mismatch(name, "its header is damaged: its size is not that of a desk");
        // What is asked and answered changes with releases, too.
        if (const auto its = text_of(header.release, sizeof header.release); its != release)
            throw_mismatch(name, "the link process of this job, pid " + std::to_string(header.creator_pid) +
                                     ", runs ringcast " + its + ", this process ringcast " + release +
                                     ": run the same release in all processes of a job");
        return kDeskBytes;
    };
    std::unique_ptr<MappedDesk> desk(new MappedDesk);
    desk->area_ =
        Area::attach(kDeskArea, name, release, check, [&](const platform::SharedFile& file) { desk->map(file); });
    return desk;
}

std::string MappedDesk::link() const {
    return "the link process of job '" + text_of(header().job, sizeof header().job) + "' (" +
           platform::describe_process(header().creator_pid, header().creator_pid_namespace) + ")";
}

std::unique_ptr<Desk> Desk::create(const std::string& name, const std::string& job, const std::string& release) {
    return std::unique_ptr<Desk>(new Desk(MappedDesk::create(name, job, release)));
}

bool Desk::wait(std::int64_t timeout_ns) noexcept {
    const auto ready = [this] {
        if (roused_.load(std::memory_order_relaxed)) return true;
        for (std::uint32_t i = 0; i < kDeskPlaces; ++i) {
            const std::uint64_t word = desk_->place(i).word.load(std::memory_order_relaxed);
            if (desk_phase(word) == DeskPhase::asked && word != taken_[i]) return true;
        }
        return false;
    };
    if (!ready()) park<Native>(desk_->control().link_parked, kParkedToken, std::min(timeout_ns, kDeskSliceNs), ready);
    const bool found = ready();
    roused_.store(false, std::memory_order_relaxed);
    return found;
}

void Desk::rouse() noexcept { ringcast::rouse<Native>(roused_, desk_->control().link_parked); }

std::vector<Desk::Request> Desk::take_requests() {
    std::vector<Request> requests;
    for (std::uint32_t i = 0; i < kDeskPlaces; ++i) {
        DeskPlace& place = desk_->place(i);
        const std::uint64_t word = place.word.load(std::memory_order_acquire);  // acquire [desk-ask]
        if (desk_phase(word) != DeskPhase::asked || word == taken_[i]) continue;
        std::string text = place.request.load();
        Native::fence_acquire();                                           // [desk-text]
        if (place.word.load(std::memory_order_relaxed) != word) continue;  // given up; what is there now wakes us, too
        taken_[i] = word;
        reached(FaultPoint::desk_request_taken);
        requests.push_back({i, desk_incarnation(word), desk_number(word), std::move(text)});
    }
    return requests;
}

bool Desk::answer(std::uint32_t place, std::uint32_t incarnation, std::uint32_t number,
                  std::string_view text) noexcept {
    // One at a time: the answer to a request that was given up must not be written over that to the next one.
    const std::lock_guard guard(answering_);
    DeskPlace& at = desk_->place(place);
    std::uint64_t word = desk_word(incarnation, number, DeskPhase::asked);
    // relaxed: who asks has read the last reply before, and has said so by its word [desk-ask], which was acquired then.
    if (at.word.load(std::memory_order_relaxed) != word) return false;
    at.reply.store(text);
    reached(FaultPoint::desk_reply_written);
    if (!at.word.compare_exchange_strong(word, desk_word(incarnation, number, DeskPhase::answered),
                                         std::memory_order_release,  // release [desk-answer]
                                         std::memory_order_relaxed))
        return false;
    reached(FaultPoint::desk_answered);
    Native::fence_seq_cst();  // [signal]
    unpark<Native>(at.parked);
    return true;
}

bool Desk::held(std::uint32_t place, std::uint32_t incarnation) const {
    return desk_->area().locks().is_held_by_another(seat_lock(place)) &&
           desk_incarnation(desk_->place(place).word.load(std::memory_order_relaxed)) == incarnation;
}

bool Desk::in_use() const { return desk_->area().locks().is_held_by_another(seat_lock(0), seat_lock(kDeskPlaces)); }

bool Desk::close_if_unused() {
    auto& life = desk_->control().life;
    life.store(DeskLife::closing, std::memory_order_relaxed);
    reached(FaultPoint::desk_closing);
    Native::fence_seq_cst();  // [desk-close]
    if (!in_use()) {
        close();
        return true;
    }
    life.store(DeskLife::open, std::memory_order_relaxed);
    return false;
}

void Desk::close() noexcept {
    if (desk_->in_forked_child() || closed_.exchange(true, std::memory_order_relaxed)) return;
    desk_->control().life.store(DeskLife::closed, std::memory_order_relaxed);
    reached(FaultPoint::desk_close_stored);
    desk_->area().unlink();
    reached(FaultPoint::desk_unlinked);
    Native::fence_seq_cst();  // [signal]
    for (std::uint32_t i = 0; i < kDeskPlaces; ++i) unpark<Native>(desk_->place(i).parked);
    rouse();
}

namespace {

// The first free one; none while the link looks whether anybody is there, or if it has ended.
std::optional<std::uint32_t> try_take(const MappedDesk& desk) {
    const auto& locks = desk.area().locks();
    std::uint32_t i = 0;
    while (i < kDeskPlaces && !locks.try_lock(seat_lock(i))) ++i;
    if (i == kDeskPlaces)
        throw Error(ErrorCode::capacity,
                    desk.link() + " has no room for another end: all " + std::to_string(kDeskPlaces) +
                        " places at its desk are taken; close queues, or use another job",
                    ENOSPC);
    reached(FaultPoint::desk_place_locked);
    // Either the link sees the lock, or this end that the link is closing.
    Native::fence_seq_cst();  // [desk-close]
    if (desk.control().life.load(std::memory_order_relaxed) == DeskLife::open) return i;
    locks.unlock(seat_lock(i));
    return std::nullopt;
}

}  // namespace

std::unique_ptr<Place> Place::take(const std::string& name, const std::string& release) {
    auto desk = MappedDesk::attach(name, release);
    for (int look = 0; look < kLooksAtClosing; ++look) {
        if (!desk->area().creator_alive()) {
            desk->area().unlink_if_abandoned();
            throw_not_found(name, "has died");
        }
        if (const auto index = try_take(*desk)) return std::unique_ptr<Place>(new Place(std::move(desk), *index));
        if (desk->control().life.load(std::memory_order_relaxed) == DeskLife::closed) break;
        platform::nap();
    }
    throw_not_found(name, "has ended");
}

Place::Place(std::unique_ptr<MappedDesk> desk, std::uint32_t index) noexcept
    : desk_(std::move(desk)),
      index_(index),
      incarnation_(desk_incarnation(place().word.load(std::memory_order_relaxed)) + 1) {
    place().word.store(desk_word(incarnation_, 0, DeskPhase::idle), std::memory_order_relaxed);
    place().parked.word.store(0, std::memory_order_relaxed);  // a dead holder may have slept
    reached(FaultPoint::desk_place_taken);
}

Place::Begun Place::begin(std::string_view request) {
    std::uint32_t use = 0;
    if (!use_.compare_exchange_strong(use, kAsking, std::memory_order_acq_rel,  // acq_rel [place-use]
                                      std::memory_order_relaxed))
        return (use & kClosed) != 0 ? Begun::closed : Begun::busy;
    number_ = (number_ + 1) & 0xff'ffff;
    Native::fence_seq_cst();  // [desk-text]: after the word that says that nothing is asked
    place().request.store(request);
    reached(FaultPoint::desk_request_written);
    place().word.store(desk_word(incarnation_, number_, DeskPhase::asked), std::memory_order_release);  // [desk-ask]
    reached(FaultPoint::desk_asked);
    Native::fence_seq_cst();  // [signal]
    unpark<Native>(desk_->control().link_parked);
    return Begun::asked;
}

bool Place::answered() const noexcept {
    return place().word.load(std::memory_order_acquire) ==  // acquire [desk-answer]
           desk_word(incarnation_, number_, DeskPhase::answered);
}

Place::Progress Place::wait(std::int64_t timeout_ns) {
    const auto closed_or_roused = [this] {
        return roused_.load(std::memory_order_relaxed) ||
               desk_->control().life.load(std::memory_order_relaxed) == DeskLife::closed;
    };
    const auto ready = [&] { return answered() || closed_or_roused(); };
    if (closed()) return Progress::closed;
    if (!ready()) park<Native>(place().parked, kParkedToken, std::min(timeout_ns, kDeskSliceNs), ready);
    if (answered()) return Progress::answered;
    if (closed()) return Progress::closed;
    const bool lives = link_lives();
    if (answered()) return Progress::answered;  // just before it died
    return lives ? Progress::waiting : Progress::link_died;
}

bool Place::link_lives() const {
    return desk_->control().life.load(std::memory_order_relaxed) != DeskLife::closed && desk_->area().creator_alive();
}

void Place::end() noexcept {
    if (in_forked_child()) return;
    reached(FaultPoint::desk_ask_end_begin);
    if (!closed()) place().word.store(desk_word(incarnation_, number_, DeskPhase::idle), std::memory_order_relaxed);
    const std::uint32_t use = use_.fetch_and(~kAsking, std::memory_order_acq_rel);  // acq_rel [place-use]
    if ((use & kClosed) != 0) leave();
}

void Place::close() noexcept {
    if (in_forked_child()) return;
    const std::uint32_t use = use_.fetch_or(kClosed, std::memory_order_acq_rel);  // acq_rel [place-use]
    if ((use & kClosed) != 0) return;
    if ((use & kAsking) != 0)
        ringcast::rouse<Native>(roused_, place().parked);
    else
        leave();
}

void Place::leave() noexcept {
    reached(FaultPoint::desk_leave_begin);
    place().word.store(desk_word(incarnation_, number_, DeskPhase::idle), std::memory_order_relaxed);
    desk_->area().locks().unlock(seat_lock(index_));
    reached(FaultPoint::desk_left);
    Native::fence_seq_cst();  // [signal]
    unpark<Native>(desk_->control().link_parked);
    desk_->area().unlink_if_abandoned();  // of a link that died
}

}  // namespace ringcast
