#include "segment.hpp"

#include <atomic>
#include <cstring>
#include <new>

#include "platform/clock.hpp"
#include "platform/process.hpp"

namespace ringcast {

namespace {

using platform::SharedFile;

Origin queue_origin(const std::byte* bytes) {
    Header header;
    std::memcpy(&header, bytes, sizeof header);
    return origin_in(header, header.named == 1 ? text_of(header.user_name, sizeof header.user_name) : std::string());
}

// What this build would have made of the header's geometry, if the header agrees with it.
Geometry check_header(const std::string& name, const Header& header) {
    Geometry plan;
    try {
        const std::uint64_t page = platform::page_bytes();
        plan = plan_geometry(header.n_reader, header.n_local, header.max_chunk_bytes, header.max_chunks, 0,
                             header.max_leases, page);
        plan.data_budget = header.data_budget;
        derive_data(plan, page);
        if (header.max_leases == 0 || header.data_budget % page != 0 || header.data_bytes != plan.data_bytes)
            throw_mismatch(name,
                           "its data part has an impossible size of " + std::to_string(header.data_bytes) + " bytes");
    } catch (const Error& error) {
        if (error.code() == ErrorCode::segment_mismatch) throw;
        throw_mismatch(name, std::string("its header is damaged: ") + error.what());
    }
    const bool as_planned =
        header.n_seats == plan.n_seats && header.inline_bytes == plan.inline_bytes &&
        header.slot_bytes == plan.slot_bytes && header.seats_offset == kSeatsOffset &&
        header.ranks_offset == plan.ranks_offset && header.board_offset == plan.board_offset &&
        header.slots_offset == plan.slots_offset && header.relayed <= 1 && header.marks_offset == plan.marks_offset &&
        header.mark_column_bytes == plan.mark_column_bytes && header.data_offset == plan.control_bytes &&
        header.total_bytes == plan.total_bytes && header.named <= 1;
    if (!as_planned) throw_mismatch(name, "its header is damaged: offsets and sizes do not belong together");
    return plan;
}

}  // namespace

const AreaKind kQueueArea{.noun = "queue",
                          .magic = kMagic,
                          .layout_version = kLayoutVersion,
                          .header_bytes = sizeof(Header),
                          .head_bytes = kSeatsOffset,
                          .finished_word = kControlOffset + offsetof(NativeControl, initialised),
                          .origin = &queue_origin};

std::string queue_label(const std::string& user_name, const std::string& segment_name) {
    return user_name.empty() ? "queue segment '" + segment_name + "'" : "queue '" + user_name + "'";
}

std::shared_ptr<Segment> Segment::create(const Request& request) {
    std::shared_ptr<Segment> segment(new Segment);
    segment->geometry_ = request.geometry;
    segment->ranks_ = request.ranks;
    segment->area_ = Area::create(kQueueArea, request.name, request.geometry.total_bytes,
                                  request.geometry.control_bytes, [&](const SharedFile& file) {
                                      segment->unmap();
                                      segment->map(file, true, true);
                                      segment->initialise(request);
                                  });
    return segment;
}

std::shared_ptr<Segment> Segment::attach(const std::string& name, Access access, const std::string& release) {
    std::shared_ptr<Segment> segment(new Segment);
    segment->area_ = Area::attach(
        kQueueArea, name, release,
        [&](const std::byte* head) {
            std::memcpy(&segment->header_, head, sizeof(Header));
            segment->geometry_ = check_header(name, segment->header_);
            return segment->geometry_.control_bytes;
        },
        [&](const SharedFile& file) {
            segment->map(file, access != Access::observe, false);
            if (access != Access::observe && segment->data_ != nullptr) segment->map_privately(file, access);
        });
    for (std::uint32_t i = 0; i < segment->geometry_.n_local; ++i)
        // relaxed: who names a rank tells its reader afterwards, by other means.
        segment->ranks_.push_back(segment->shared_rank(i).load(std::memory_order_relaxed));
    return segment;
}

Segment::~Segment() {
    // In a forked child the segment is its ancestor's: nothing is unmapped there.
    if (fork_generation_ != platform::fork_generation()) return;
    if (area_ != nullptr) {
        area_->unlink();
        // Who looks on maps header and seats; slots, marks and data are for those who hold a seat.
        const std::uint64_t used = round_up(geometry_.slots_offset, platform::page_bytes());
        area_->give_back_what_is_left(used, geometry_.total_bytes - used);
        area_.reset();
    }
    unmap();
}

void Segment::unmap() noexcept {
    private_data_.reset();
    if (data_ != nullptr) platform::unmap(data_, geometry_.data_bytes);
    if (control_ != nullptr) platform::unmap(control_, geometry_.control_bytes);
    control_ = data_ = nullptr;
}

void Segment::map_privately(const SharedFile& file, Access access) {
    try {
        if (void* mapping = file.map_private(geometry_.total_bytes); mapping != nullptr)
            private_data_ = std::make_unique<PrivateData>(static_cast<std::byte*>(mapping), geometry_.control_bytes,
                                                          geometry_.data_bytes);
    } catch (const Error&) {
        if (access == Access::copy) throw;  // else what would be a view is a copy
    }
}

void Segment::map(const SharedFile& file, bool control_writable, bool data_writable) {
    control_ = static_cast<std::byte*>(file.map(0, geometry_.control_bytes, control_writable));
    platform::exclude_from_core_dumps(control_, geometry_.control_bytes);
    if (geometry_.data_bytes != 0) {
        data_ = static_cast<std::byte*>(file.map(geometry_.control_bytes, geometry_.data_bytes, data_writable));
        platform::exclude_from_core_dumps(data_, geometry_.data_bytes);
    }
    ring_.control = reinterpret_cast<NativeControl*>(control_ + kControlOffset);
    ring_.seats = reinterpret_cast<NativeSeat*>(control_ + kSeatsOffset);
    ring_.slots = control_ + geometry_.slots_offset;
    ring_.board = reinterpret_cast<NativePlacement*>(control_ + geometry_.board_offset);
    ring_.n_local = geometry_.n_local;
    ring_.n_remote = geometry_.n_remote();
    ring_.n_seats = geometry_.n_seats;
    ring_.depth = geometry_.max_chunks;
    ring_.slot_bytes = geometry_.slot_bytes;
    ring_.marks = control_ + geometry_.marks_offset;
    ring_.mark_column_bytes = geometry_.mark_column_bytes;
}

void Segment::initialise(const Request& request) {
    Header& header = header_;
    header.magic = kMagic;
    header.layout_version = kLayoutVersion;
    header.byte_order = kByteOrder;
    header.total_bytes = geometry_.total_bytes;
    header.epoch = platform::random_u64() >> 11;  // 53 bits: a handle may travel as JSON, whose numbers are doubles
    header.n_reader = geometry_.n_reader;
    header.n_local = geometry_.n_local;
    header.n_seats = geometry_.n_seats;
    header.max_chunks = geometry_.max_chunks;
    header.max_chunk_bytes = geometry_.max_chunk_bytes;
    header.data_bytes = geometry_.data_bytes;
    header.data_budget = geometry_.data_budget;
    header.inline_bytes = geometry_.inline_bytes;
    header.slot_bytes = geometry_.slot_bytes;
    header.seats_offset = kSeatsOffset;
    header.ranks_offset = geometry_.ranks_offset;
    header.board_offset = geometry_.board_offset;
    header.slots_offset = geometry_.slots_offset;
    header.marks_offset = geometry_.marks_offset;
    header.max_leases = geometry_.max_leases;
    header.mark_column_bytes = geometry_.mark_column_bytes;
    header.data_offset = geometry_.control_bytes;
    header.creator_pid = platform::process_id();
    header.named = request.user_name.empty() || request.source ? 0 : 1;
    header.creator_pid_namespace = platform::pid_namespace();
    header.created_at_ns = platform::wall_clock_ns();
    copy_text(header.release, sizeof header.release, request.release);
    copy_text(header.user_name, sizeof header.user_name, request.user_name);
    if (request.source) {
        header.relayed = 1;
        header.origin_pid = request.source->pid;
        copy_text(header.origin_host, sizeof header.origin_host, request.source->host);
    }
    std::memcpy(control_, &header, sizeof header);

    // The file is all zero bytes, which is the initial value of every word that is not set here.
    new (ring_.control) NativeControl{};
    for (std::uint32_t i = 0; i < ring_.n_seats; ++i) {
        auto* seat = new (&ring_.seats[i]) NativeSeat{};
        if (i >= geometry_.n_reader) continue;
        seat->rank.store(i < ranks_.size() ? ranks_[i] : kNobody, std::memory_order_relaxed);
        // A handle promises its ranks every message from the first on. A named queue's writer may give nobody one.
        if (!named()) seat->state.store(seat_word(0, SeatState::expected), std::memory_order_relaxed);
    }
    ring_.control->promised.store(named() ? 0 : 1, std::memory_order_relaxed);
    for (std::uint32_t i = 0; i < ring_.n_remote; ++i) {
        auto* placement = new (&ring_.board[i]) NativePlacement{};
        placement->rank.store(kNobody, std::memory_order_relaxed);
    }
    for (std::uint32_t i = 0; i < ring_.depth; ++i) new (&ring_.slot(i)) NativeSlot{};
    for (std::uint32_t i = 0; i < ranks_.size(); ++i) new (&shared_rank(i)) std::atomic<std::uint32_t>(ranks_[i]);
    ring_.control->initialised.store(1, std::memory_order_release);  // release [initialised]
}

bool Segment::reserve_data(std::uint64_t begin, std::uint64_t end) {
    reached(FaultPoint::data_reserve_begin);
    if (!area_->reserve(geometry_.control_bytes + begin, end - begin)) return false;
    reached(FaultPoint::data_reserved);
    ring_.control->data_committed.fetch_add(end - begin, std::memory_order_relaxed);
    return true;
}

bool Segment::release_data(std::uint64_t begin, std::uint64_t end) noexcept {
    if (!area_->give_back(geometry_.control_bytes + begin, end - begin)) return false;
    reached(FaultPoint::data_punched);
    ring_.control->data_committed.fetch_sub(end - begin, std::memory_order_relaxed);
    return true;
}

std::uint64_t Segment::committed_bytes() const noexcept {
    return geometry_.control_bytes + ring_.control->data_committed.load(std::memory_order_relaxed);
}

std::uint32_t Segment::rank_of(std::uint32_t home) const noexcept {
    if (home < ranks_.size()) return ranks_[home];
    return ring_.board[home - ranks_.size()].rank.load(std::memory_order_relaxed);
}

void Segment::name_rank(std::uint32_t home, std::uint32_t rank) noexcept {
    shared_rank(home).store(rank, std::memory_order_relaxed);
    ranks_[home] = rank;
    ring_.seats[home].rank.store(rank, std::memory_order_relaxed);
}

std::string Segment::user_name() const { return text_of(header_.user_name, sizeof header_.user_name); }

std::string Segment::label() const { return queue_label(named() || is_relay() ? user_name() : std::string(), name()); }

}  // namespace ringcast
