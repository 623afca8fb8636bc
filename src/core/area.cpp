#include "area.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <utility>

#include "errors.hpp"
#include "fault_points.hpp"
#include "platform/clock.hpp"
#include "platform/process.hpp"
#include "sweep.hpp"

namespace ringcast {

namespace {

using platform::SharedFile;

// How long a name's creation waits for whoever is just removing what a dead process left there, and for a living owner
// of that name, which may be just closing.
constexpr std::int64_t kRemovalPatienceNs = 1'000'000'000;
constexpr std::int64_t kClosingPatienceNs = 20'000'000;

// What one system call reserves: some tenths of a second, so that signals are heard and progress can be told in between.
constexpr std::uint64_t kReserveStep = std::uint64_t{256} << 20;

// Who has a name that another area is to get, and what to do about it.
std::string holder_of(const AreaKind& kind, const std::optional<Remains>& holder) {
    const std::string noun = kind.noun;
    if (!holder || holder->fate == Fate::removed)
        return "for a second other processes have been making and removing segments of this name; choose another name";
    const std::string process =
        holder->creator_pid == 0 ? "another process" : "process " + std::to_string(holder->creator_pid);
    if (holder->fate == Fate::alive && platform::is_this_process(holder->creator_pid, holder->creator_pid_namespace))
        return "a living " + noun + " of this process (pid " + std::to_string(holder->creator_pid) +
               ") has it; call close() on it first, wherever it is kept (a variable, a notebook's output, a "
               "traceback), or choose another name";
    if (holder->fate == Fate::alive)
        return "a living " + noun + " of " + process + " has it; close that " + noun + " first or choose another name";
    if (holder->fate == Fate::removing)
        return "its owner, " + process + ", is dead, and a process that is removing what it left has not finished " +
               "within 1 s, so it may be stopped; try again, or choose another name";
    return "what has it is not ringcast's to remove: " + holder->reason + "; remove it or choose another name";
}

// Is it a file that only this user can have made and can change?
void check_file(const std::string& name, const platform::FileFacts& facts) {
    if (!facts.regular) throw_mismatch(name, "it is not a regular file");
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
}

// Touching a hole asks for memory, which ends in SIGBUS if there is none: what a creator has reserved has no holes.
void check_reserved(const std::string& name, const platform::FileFacts& facts, std::uint64_t bytes) {
    if (facts.committed < bytes)
        throw_mismatch(name, "it is sparse: only " + std::to_string(facts.committed) + " bytes of it have memory");
}

// The fields in the order in which they make sense of each other.
void check_head(const AreaKind& kind, const std::string& name, const platform::FileFacts& facts,
                const std::string& release, const std::byte* head) {
    const auto* word = reinterpret_cast<const std::atomic<std::uint32_t>*>(head + kind.finished_word);
    const bool finished = word->load(std::memory_order_acquire) == 1;  // acquire [initialised]
    AreaHeader header;
    std::memcpy(&header, head, sizeof header);
    if (header.magic == 0 || (header.magic == kind.magic && !finished))
        throw_mismatch(name, "its creator has not finished making it");
    if (header.magic != kind.magic)
        throw_mismatch(name, "it does not start with ringcast's magic number; it was not made by ringcast");
    if (header.byte_order != kByteOrder) throw_mismatch(name, "it was made by a process of the other byte order");
    if (header.layout_version != kind.layout_version)
        throw_mismatch(name, "its layout is version " + std::to_string(header.layout_version) + ", of ringcast " +
                                 kind.origin(head).release + "; this process runs ringcast " + release +
                                 " with layout version " + std::to_string(kind.layout_version) +
                                 ": run the same release on both sides");
    if (header.total_bytes > facts.bytes)
        throw_mismatch(name, "it says that it has " + std::to_string(header.total_bytes) + " bytes, but the file has " +
                                 std::to_string(facts.bytes));
}

}  // namespace

void throw_mismatch(const std::string& name, const std::string& what) {
    throw Error(ErrorCode::segment_mismatch, "segment '" + name + "' cannot be used: " + what);
}

void throw_capacity(const std::string& what, std::uint64_t needed, const char* smaller) {
    const std::uint64_t free = platform::free_bytes();
    throw Error(ErrorCode::capacity,
                what + ": needed " + in_units(needed) + " of shared memory, " + platform::place() + " has " +
                    (free == UINT64_MAX ? std::string("no limit of its own") : in_units(free) + " free") +
                    "; in a container give it more with --shm-size or --ipc=host, or use a smaller " + smaller,
                ENOSPC);
}

void Area::reserve_in_steps(std::uint64_t bytes, const Progress& progress) const {
    // What does not fit would fill the machine's memory before it fails.
    bool enough = bytes <= kReserveStep || bytes <= platform::free_bytes();
    for (std::uint64_t done = 0; enough && done < bytes;) {
        if (progress) progress(done, bytes);
        const std::uint64_t step = std::min(kReserveStep, bytes - done);
        enough = reserve(done, step);
        done += step;
    }
    if (!enough)
        throw_capacity(std::string("making ") + kind_->noun + " segment '" + name_ + "'", bytes, kind_->smaller);
    if (progress) progress(bytes, bytes);
}

void Area::make(std::uint64_t bytes, std::uint64_t reserved, const Use& fill, const Progress& progress) {
    SharedFile file = SharedFile::create(name_, bytes);
    reached(FaultPoint::create_opened);
    facts_ = file.facts();
    linked_ = platform::named_from_creation();
    // The locks come first: from its first visible moment on the area has a living owner.
    locks_.adopt(file.open_for_locks(name_), name_);
    if (!locks_.try_lock(kCreatorLock))
        throw Error(ErrorCode::segment_exists, "another process is making a segment named '" + name_ + "'");
    reached(FaultPoint::create_locked);
    reserve_in_steps(reserved, progress);
    reached(FaultPoint::create_reserved);
    fill(file);
    reached(FaultPoint::create_initialised);
    file.link(name_);
    reached(FaultPoint::create_linked);
    linked_ = true;
    locks_.vouch();
}

std::unique_ptr<Area> Area::create_anew(const AreaKind& kind, const std::string& name, std::uint64_t bytes,
                                        std::uint64_t reserved, const Use& fill, const Progress& progress) {
    std::unique_ptr<Area> area(new Area(kind, name, true));
    area->make(bytes, reserved, fill, progress);
    return area;
}

std::unique_ptr<Area> Area::create(const AreaKind& kind, const std::string& name, std::uint64_t bytes,
                                   std::uint64_t reserved, const Use& fill) {
    const std::int64_t begin = platform::monotonic_ns();
    for (;;) {
        try {
            return create_anew(kind, name, bytes, reserved, fill);
        } catch (const Error& error) {
            if (error.code() != ErrorCode::segment_exists) throw;
        }
        const AreaKind* const kinds[] = {&kind};
        const auto holder = sweep_name(kinds, name, false);
        const bool free = !holder || holder->fate == Fate::removed;
        const auto patience = free || holder->fate == Fate::removing ? kRemovalPatienceNs : kClosingPatienceNs;
        if (platform::monotonic_ns() - begin < patience) {
            if (!free) platform::nap();
            continue;
        }
        std::optional<Peer> peer;
        if (holder && holder->fate == Fate::alive) peer = Peer{std::nullopt, holder->creator_pid};
        throw Error(ErrorCode::segment_exists, "the name '" + name + "' is taken: " + holder_of(kind, holder), peer,
                    EEXIST);
    }
}

std::unique_ptr<Area> Area::attach(const AreaKind& kind, const std::string& name, const std::string& release,
                                   const Check& check, const Use& map) {
    std::unique_ptr<Area> area(new Area(kind, name, false));
    const SharedFile file = SharedFile::open(name);
    reached(FaultPoint::attach_opened);
    const platform::FileFacts facts = area->facts_ = file.facts();
    check_file(name, facts);
    if (facts.bytes < kind.head_bytes) throw_mismatch(name, "it has only " + std::to_string(facts.bytes) + " bytes");
    check_reserved(name, facts, kind.head_bytes);
    {
        const auto unmap = [&](void* head) { platform::unmap(head, kind.head_bytes); };
        const std::unique_ptr<void, decltype(unmap)> head(file.map(0, kind.head_bytes, false), unmap);
        const auto* bytes = static_cast<const std::byte*>(head.get());
        check_head(kind, name, facts, release, bytes);
        check_reserved(name, facts, check(bytes));
    }
    area->locks_.adopt(file.open_for_locks(name), name);
    reached(FaultPoint::attach_locks_opened);
    map(file);
    reached(FaultPoint::attach_mapped);
    return area;
}

Area::~Area() { unlink(); }

bool Area::reserve(std::uint64_t offset, std::uint64_t bytes) const {
    return platform::reserve(locks_.descriptor(), offset, bytes);
}

bool Area::give_back(std::uint64_t offset, std::uint64_t bytes) const noexcept {
    const int descriptor = locks_.descriptor_if_ours();
    return descriptor != -1 && platform::give_back(descriptor, offset, bytes);
}

Area::Joined Area::join(std::uint64_t lock) {
    // Held alone by a remover for a moment only; one that is stopped there must not stop who comes.
    const std::int64_t begin = platform::monotonic_ns();
    while (!locks_.try_share(kRemovalLock)) {
        if (platform::monotonic_ns() - begin >= kRemovalPatienceNs) return Joined::gone;
        platform::nap();
    }
    const bool taken = !locks_.try_lock(lock);
    const bool here = platform::name_refers_to(name_, facts_);
    if (!taken && !here) locks_.unlock(lock);
    locks_.unlock(kRemovalLock);
    return !here ? Joined::gone : taken ? Joined::taken : Joined::joined;
}

void Area::unlink() noexcept {
    if (!is_creator_ || !linked_ || in_forked_child()) return;
    reached(FaultPoint::unlink_begin);
    locks_.vouch_no_more();
    refused_ = platform::name_refers_to(name_, facts_) && platform::unlink_name(name_) != 0;
    linked_ = refused_;
}

void Area::unlink_if_abandoned() noexcept {
    try {
        if (!is_creator_) remove_if_dead(*kind_, name_, facts_, locks_);
    } catch (const Error&) {  // the kernel would not say, or not do it: the next sweep tries again
        refused_ = true;
    }
}

void Area::give_back_what_is_left(std::uint64_t offset, std::uint64_t bytes) const noexcept {
    if (!name_is_left()) return;
    try {
        // All that say that somebody uses it, at once: nobody takes one any more until this process lets go of the file,
        // and afterwards its holes are seen by who attaches. In doubt about the creator it is left alone.
        if (creator_alive() == is_creator_ && locks_.try_lock(kCreatorLock + 1, kRemovalLock)) give_back(offset, bytes);
    } catch (const Error&) {  // the locks are lost
    }
}

}  // namespace ringcast
