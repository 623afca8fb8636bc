#include "segment.hpp"

#include <cstdio>
#include <cstring>
#include <ctime>
#include <new>

#include "platform/clock.hpp"
#include "platform/process.hpp"
#include "sweep.hpp"

namespace ringcast {

namespace {

using platform::SharedFile;

// How long a name's creation waits for whoever is just removing what a dead process left there, and for a living queue
// of that name, which may be just closing.
constexpr std::int64_t kRemovalPatienceNs = 1'000'000'000;
constexpr std::int64_t kClosingPatienceNs = 20'000'000;

void copy_text(char* to, std::size_t size, const std::string& from) {
    std::strncpy(to, from.c_str(), size - 1);
    to[size - 1] = '\0';
}

void nap() {
    const timespec millisecond{.tv_sec = 0, .tv_nsec = 1'000'000};
    nanosleep(&millisecond, nullptr);
}

// Who has a name that another segment is to get, and what to do about it.
std::string holder_of(const std::optional<Remains>& holder) {
    constexpr const char* kOrElse = "; close that queue first or choose another name";
    if (!holder || holder->fate == Fate::removed)
        return "for a second other processes have been making and removing segments of this name; choose another name";
    const std::string process =
        holder->creator_pid == 0 ? "another process" : "process " + std::to_string(holder->creator_pid);
    if (holder->fate == Fate::alive) return "a living queue of " + process + " has it" + kOrElse;
    if (holder->fate == Fate::removing)
        return "its owner, " + process + ", is dead, and a process that is removing what it left has not finished " +
               "within 1 s, so it may be stopped; try again, or choose another name";
    return "what has it is not ringcast's to remove: " + holder->reason + "; remove it or choose another name";
}

[[noreturn]] void mismatch(const std::string& name, const std::string& what) {
    throw Error(ErrorCode::segment_mismatch, "segment '" + name + "' cannot be used: " + what);
}

// Header fields in the order in which they make sense of each other.
Geometry check_header(const std::string& name, const Header& header, const platform::FileFacts& facts,
                      const std::string& release) {
    if (header.magic != kMagic)
        mismatch(name, "it does not start with ringcast's magic number; it was not made by ringcast");
    if (header.byte_order != kByteOrder) mismatch(name, "it was made by a process of the other byte order");
    if (header.layout_version != kLayoutVersion)
        mismatch(name, "its layout is version " + std::to_string(header.layout_version) + ", of ringcast " +
                           text_of(header.release, sizeof header.release) + "; this process runs ringcast " + release +
                           " with layout version " + std::to_string(kLayoutVersion) +
                           ": run the same release on both sides");
    if (header.total_bytes > facts.bytes)
        mismatch(name, "it says that it has " + std::to_string(header.total_bytes) + " bytes, but the file has " +
                           std::to_string(facts.bytes));
    Geometry plan;
    try {
        const std::uint64_t page = platform::page_bytes();
        plan = plan_geometry(header.n_reader, header.n_local, header.max_chunk_bytes, header.max_chunks, 0,
                             header.max_leases, page);
        plan.data_budget = header.data_budget;
        derive_data(plan, page);
        if (header.max_leases == 0 || header.data_budget % page != 0 || header.data_bytes != plan.data_bytes)
            mismatch(name, "its data part has an impossible size of " + std::to_string(header.data_bytes) + " bytes");
    } catch (const Error& error) {
        if (error.code() == ErrorCode::segment_mismatch) throw;
        mismatch(name, std::string("its header is damaged: ") + error.what());
    }
    const bool as_planned =
        header.n_seats == plan.n_seats && header.inline_bytes == plan.inline_bytes &&
        header.slot_bytes == plan.slot_bytes && header.seats_offset == kSeatsOffset &&
        header.ranks_offset == plan.ranks_offset && header.slots_offset == plan.slots_offset &&
        header.marks_offset == plan.marks_offset && header.mark_column_bytes == plan.mark_column_bytes &&
        header.data_offset == plan.control_bytes && header.total_bytes == plan.total_bytes && header.named <= 1;
    if (!as_planned) mismatch(name, "its header is damaged: offsets and sizes do not belong together");
    return plan;
}

}  // namespace

std::string in_units(std::uint64_t bytes) {
    char text[32];
    if (bytes >= (std::uint64_t{1} << 20))
        std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
    else
        std::snprintf(text, sizeof text, "%llu bytes", static_cast<unsigned long long>(bytes));
    return text;
}

void throw_capacity(const std::string& what, std::uint64_t needed) {
    const std::uint64_t free = platform::free_bytes();
    throw Error(ErrorCode::capacity,
                what + ": needed " + in_units(needed) + " of shared memory, " + platform::place() + " has " +
                    (free == UINT64_MAX ? std::string("no limit of its own") : in_units(free) + " free") +
                    "; in a container give it more with --shm-size or --ipc=host, or use a smaller max_chunk_bytes, "
                    "max_chunks, max_leases or max_bytes",
                ENOSPC);
}

std::shared_ptr<Segment> Segment::create(const Request& request) {
    const Geometry& geometry = request.geometry;
    std::shared_ptr<Segment> segment(new Segment(request.name, true));
    const std::int64_t begin = platform::monotonic_ns();
    for (;;) {
        try {
            SharedFile file = SharedFile::create(request.name, geometry.total_bytes);
            reached(FaultPoint::create_opened);
            segment->facts_ = file.facts();
            segment->linked_ = platform::named_from_creation();
            // The locks come first: from its first visible moment on the segment has a living owner.
            segment->locks_.adopt(file.open_for_locks(request.name));
            if (!segment->locks_.try_lock(kCreatorLock))
                throw Error(ErrorCode::segment_exists,
                            "another process is making a segment named '" + request.name + "'");
            reached(FaultPoint::create_locked);
            if (!platform::reserve(segment->locks_.descriptor(), 0, geometry.control_bytes))
                throw_capacity("making queue segment '" + request.name + "'", geometry.control_bytes);
            reached(FaultPoint::create_reserved);
            segment->geometry_ = geometry;
            segment->ranks_ = request.ranks;
            segment->map(file, true, true);
            segment->initialise(request);
            reached(FaultPoint::create_initialised);
            file.link(request.name);
            reached(FaultPoint::create_linked);
            segment->linked_ = true;
            return segment;
        } catch (const Error& error) {
            if (error.code() != ErrorCode::segment_exists) throw;
        }
        segment.reset(new Segment(request.name, true));
        const auto holder = sweep_name(request.name, false);
        const bool free = !holder || holder->fate == Fate::removed;
        const auto patience = free || holder->fate == Fate::removing ? kRemovalPatienceNs : kClosingPatienceNs;
        if (platform::monotonic_ns() - begin < patience) {
            if (!free) nap();
            continue;
        }
        throw Error(ErrorCode::segment_exists, "the name '" + request.name + "' is taken: " + holder_of(holder),
                    EEXIST);
    }
}

std::shared_ptr<Segment> Segment::attach(const std::string& name, Access access, const std::string& release) {
    std::shared_ptr<Segment> segment(new Segment(name, false));
    const SharedFile file = SharedFile::open(name);
    reached(FaultPoint::attach_opened);
    const auto facts = file.facts();
    if (!facts.regular) mismatch(name, "it is not a regular file");
    if (facts.owner != platform::user_id())
        throw Error(ErrorCode::segment_permission,
                    "segment '" + name + "' belongs to uid " + std::to_string(facts.owner) +
                        ", this process runs as uid " + std::to_string(platform::user_id()) +
                        ": only a queue's own user may attach",
                    EACCES);
    if ((facts.mode & 0077) != 0) {
        char mode[16];
        std::snprintf(mode, sizeof mode, "%04o", facts.mode);
        throw Error(ErrorCode::segment_permission,
                    "segment '" + name + "' has mode " + mode +
                        ", so other users could change it; ringcast makes 0600 and uses nothing else",
                    EACCES);
    }
    if (facts.bytes < kSeatsOffset) mismatch(name, "it has only " + std::to_string(facts.bytes) + " bytes");
    // Touching a hole asks for memory, which ends in SIGBUS if there is none: what a creator has reserved has no holes.
    const auto check_reserved = [&](std::uint64_t bytes) {
        if (facts.committed < bytes)
            mismatch(name, "it is sparse: only " + std::to_string(facts.committed) + " bytes of it have memory");
    };
    check_reserved(kSeatsOffset);

    {
        void* page = file.map(0, kSeatsOffset, false);
        std::memcpy(&segment->header_, page, sizeof(Header));
        const auto* control =
            reinterpret_cast<const NativeControl*>(static_cast<const std::byte*>(page) + kControlOffset);
        const bool initialised = control->initialised.load(std::memory_order_acquire) == 1;  // acquire [initialised]
        platform::unmap(page, kSeatsOffset);
        if (segment->header_.magic == 0 || (segment->header_.magic == kMagic && !initialised))
            mismatch(name, "its creator has not finished making it");
    }
    segment->geometry_ = check_header(name, segment->header_, facts, release);
    check_reserved(segment->geometry_.control_bytes);
    segment->facts_ = facts;
    segment->locks_.adopt(file.open_for_locks(name));
    reached(FaultPoint::attach_locks_opened);
    segment->map(file, access != Access::observe, false);
    reached(FaultPoint::attach_mapped);
    if (access == Access::copy && segment->data_ != nullptr)
        segment->private_data_ =
            static_cast<std::byte*>(file.map_private(segment->geometry_.control_bytes, segment->geometry_.data_bytes));
    const auto* ranks = reinterpret_cast<const std::uint32_t*>(segment->control_ + segment->geometry_.ranks_offset);
    segment->ranks_.assign(ranks, ranks + segment->geometry_.n_local);
    return segment;
}

Segment::~Segment() {
    // In a forked child the segment is its ancestor's: nothing is unmapped, unlinked or released here.
    if (fork_generation_ != platform::fork_generation()) return;
    unlink();
    locks_.close();
    if (private_data_ != nullptr) platform::unmap(private_data_, geometry_.data_bytes);
    if (data_ != nullptr) platform::unmap(data_, geometry_.data_bytes);
    if (control_ != nullptr) platform::unmap(control_, geometry_.control_bytes);
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
    header.epoch = platform::random_u64();
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
    header.slots_offset = geometry_.slots_offset;
    header.marks_offset = geometry_.marks_offset;
    header.max_leases = geometry_.max_leases;
    header.mark_column_bytes = geometry_.mark_column_bytes;
    header.data_offset = geometry_.control_bytes;
    header.creator_pid = platform::process_id();
    header.named = request.user_name.empty() ? 0 : 1;
    header.creator_pid_namespace = platform::pid_namespace();
    header.created_at_ns = platform::wall_clock_ns();
    copy_text(header.release, sizeof header.release, request.release);
    copy_text(header.user_name, sizeof header.user_name, request.user_name);
    std::memcpy(control_, &header, sizeof header);

    // The file is all zero bytes, which is the initial value of every word that is not set here.
    new (ring_.control) NativeControl{};
    for (std::uint32_t i = 0; i < ring_.n_seats; ++i) {
        auto* seat = new (&ring_.seats[i]) NativeSeat{};
        if (i >= ranks_.size()) continue;
        seat->rank.store(ranks_[i], std::memory_order_relaxed);
        // A handle promises its ranks every message from the first on; a name promises nothing to those not there yet.
        if (!named()) seat->state.store(seat_word(0, SeatState::expected), std::memory_order_relaxed);
    }
    for (std::uint32_t i = 0; i < ring_.depth; ++i) new (&ring_.slot(i)) NativeSlot{};
    if (!ranks_.empty())
        std::memcpy(control_ + geometry_.ranks_offset, ranks_.data(), ranks_.size() * sizeof(std::uint32_t));
    ring_.control->initialised.store(1, std::memory_order_release);  // release [initialised]
}

bool Segment::reserve_data(std::uint64_t begin, std::uint64_t end) {
    reached(FaultPoint::data_reserve_begin);
    if (!platform::reserve(locks_.descriptor(), geometry_.control_bytes + begin, end - begin)) return false;
    reached(FaultPoint::data_reserved);
    ring_.control->data_committed.fetch_add(end - begin, std::memory_order_relaxed);
    return true;
}

bool Segment::release_data(std::uint64_t begin, std::uint64_t end) noexcept {
    if (!platform::give_back(locks_.descriptor(), geometry_.control_bytes + begin, end - begin)) return false;
    reached(FaultPoint::data_punched);
    ring_.control->data_committed.fetch_sub(end - begin, std::memory_order_relaxed);
    return true;
}

std::uint64_t Segment::committed_bytes() const noexcept {
    return geometry_.control_bytes + ring_.control->data_committed.load(std::memory_order_relaxed);
}

void Segment::unlink() noexcept {
    if (!is_creator_ || !linked_ || fork_generation_ != platform::fork_generation()) return;
    reached(FaultPoint::unlink_begin);
    linked_ = false;
    if (platform::name_refers_to(name_, facts_)) platform::unlink_name(name_);
}

std::string Segment::user_name() const { return text_of(header_.user_name, sizeof header_.user_name); }

std::string Segment::label() const { return named() ? "queue '" + user_name() + "'" : "queue segment '" + name_ + "'"; }

void Segment::unlink_if_abandoned() noexcept {
    try {
        if (!is_creator_) remove_if_dead(name_, facts_, locks_);
    } catch (const Error&) {  // the kernel would not say, or not do it: the next sweep tries again
    }
}

bool Segment::creator_alive() const { return is_creator_ || locks_.is_held_by_another(kCreatorLock); }

}  // namespace ringcast
