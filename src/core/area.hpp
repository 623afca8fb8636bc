// An area: a named file of shared memory, of whatever kind, whose creator's life the kernel vouches for.
//
// It is made whole or not at all: without a name, its creator's lock byte taken, its memory reserved, filled, and only
// then linked. Attaching believes nothing: type, owner, mode, size, holes, magic, version and byte order are checked
// before any of it is used. What dead creators leave is swept (sweep.hpp). In a forked child an area is its ancestor's:
// nothing is unlinked, unlocked or closed there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "area_kind.hpp"
#include "locks.hpp"
#include "platform/lock_file.hpp"
#include "platform/shared_file.hpp"
#include "progress.hpp"
#include "units.hpp"

namespace ringcast {

class Area {
public:
    // Maps the file. At a creation it fills it as well, and is called again, with another file, if the name is taken
    // over from a dead creator in the meantime.
    using Use = std::function<void(const platform::SharedFile&)>;
    // Looks at the first `head_bytes` of an area whose AreaHeader is as it should be, throws segment_mismatch if the
    // rest is not, and says how many bytes its creator has reserved.
    using Check = std::function<std::uint64_t(const std::byte* head)>;

    // Makes a file of `bytes` bytes, the first `reserved` of them with memory. Throws segment_exists if the name belongs
    // to a living creator, or is being removed and is not gone within 1 s; a dead creator's area is replaced.
    static std::unique_ptr<Area> create(const AreaKind& kind, const std::string& name, std::uint64_t bytes,
                                        std::uint64_t reserved, const Use& fill);
    // The same, but throws segment_exists whoever has the name: for kinds whose dead are not replaced. `progress` is told
    // of the memory that has been reserved.
    static std::unique_ptr<Area> create_anew(const AreaKind& kind, const std::string& name, std::uint64_t bytes,
                                             std::uint64_t reserved, const Use& fill, const Progress& progress = {});
    // segment_not_found, segment_permission, segment_mismatch. `release` is this process's, for messages.
    static std::unique_ptr<Area> attach(const AreaKind& kind, const std::string& name, const std::string& release,
                                        const Check& check, const Use& map);
    ~Area();
    Area(const Area&) = delete;
    Area& operator=(const Area&) = delete;

    const std::string& name() const noexcept { return name_; }
    bool is_creator() const noexcept { return is_creator_; }
    bool in_forked_child() const noexcept { return fork_generation_ != platform::fork_generation(); }
    const platform::LockFile& locks() const noexcept { return locks_; }

    // Gives a range memory; false if the machine has not enough.
    bool reserve(std::uint64_t offset, std::uint64_t bytes) const;
    // Gives its memory back; false where the system cannot do that. Nobody may be using the range.
    bool give_back(std::uint64_t offset, std::uint64_t bytes) const noexcept;
    // Takes a lock byte of an area of a kind that lives with its locks. `gone`: the name does not lead here any more.
    enum class Joined { joined, taken, gone };
    Joined join(std::uint64_t lock);
    // Its creator is dead, and this process holds kCreatorLock now: it is the creator from here on. Or, the reverse, it is
    // the creator's no more, and stays.
    void take_over() noexcept { is_creator_ = linked_ = true; }
    void disown() noexcept { is_creator_ = false; }
    // Removes the name; those who have mapped the area keep it. Creator only, once, not in a forked child.
    void unlink() noexcept;
    // What a survivor does for a creator that died.
    void unlink_if_abandoned() noexcept;
    // Has the system refused to remove the name? So it does to a process that has changed its user since.
    bool name_is_left() const noexcept { return refused_ && !in_forked_child(); }
    // Gives back a range that nobody can be using any more, if the name is left and nobody but this process's creator
    // holds a lock: as much as can be done for memory that only its owner's next sweep removes.
    void give_back_what_is_left(std::uint64_t offset, std::uint64_t bytes) const noexcept;
    // Is the creator's process alive, or this one the creator's?
    bool creator_alive() const { return is_creator_ || locks_.is_held_by_another(kCreatorLock); }

private:
    Area(const AreaKind& kind, std::string name, bool is_creator)
        : kind_(&kind), name_(std::move(name)), is_creator_(is_creator) {}
    void make(std::uint64_t bytes, std::uint64_t reserved, const Use& fill, const Progress& progress);
    void reserve_in_steps(std::uint64_t bytes, const Progress& progress) const;

    const AreaKind* kind_;
    std::string name_;
    bool is_creator_;
    bool linked_ = false;
    bool refused_ = false;
    std::uint32_t fork_generation_ = platform::fork_generation();
    platform::LockFile locks_;
    platform::FileFacts facts_{};
};

[[noreturn]] void throw_mismatch(const std::string& name, const std::string& what);

// "needed 3.0 MiB, free 1.2 MiB ..." with the remedy; `what` says what was being done, `smaller` what could be less.
[[noreturn]] void throw_capacity(const std::string& what, std::uint64_t needed, const char* smaller = kSmallerQueue);

}  // namespace ringcast
