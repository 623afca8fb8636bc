// What dead processes left under a name, and its removal.
//
// An area's magic is written under its creator's lock, and that lock is never taken a second time. So magic under a
// free creator's byte means for ever that the creator is dead or has closed: proof enough to remove the name. The right
// to do it is another byte, kRemovalLock. Were it the creator's own, a remover that is stopped half-way would look like
// a living writer to every reader that waits for a dead one.
//
// An area that several keep alive, and that a new creator may take over, is dead only while nobody holds any of its bytes.
// Who comes to it shares the removal byte while it takes its own and sees that the name still leads there (Area::join);
// who removes it has that byte alone while it asks again. So either the remover finds the comer's byte, or the comer finds
// the name gone.
//
// Why nothing alive is removed: the holder of a segment's removal byte compares inodes and then unlinks. Only its
// creator, which is dead, and the holder of this very byte may unlink this inode, and a new area can be linked only
// after that. So a name that leads to this inode at the comparison leads to it until its holder unlinks it, however
// long it sleeps in between.
//
// Nothing here keeps an area mapped, takes a seat or waits for anybody. Those who have mapped a removed area keep it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "area_kind.hpp"
#include "platform/lock_file.hpp"
#include "platform/shared_file.hpp"

namespace ringcast {

enum class Fate {
    alive,     // its creator lives
    dead,      // its creator is dead; it was only looked at
    removed,   // its creator is dead; the name is gone
    removing,  // its creator is dead, and another process is about to remove the name
    kept,      // its creator is dead, and it is to stay all the same
    skipped,   // not ours to remove, or it cannot be looked at; `reason` says which
};

struct Remains {
    std::string name;
    std::string user_name;          // empty: none, or another release's layout
    std::uint32_t creator_pid;      // 0: not known
    std::uint64_t committed_bytes;  // memory it takes
    Fate fate;
    std::string reason;
    std::uint64_t creator_pid_namespace = 0;
    const AreaKind* kind = nullptr;  // null: none of those looked for
};

using AreaKinds = std::span<const AreaKind* const>;

// Looks at one name and, unless `dry_run`, removes an area of one of these kinds if its creator is dead. Empty if nothing has
// this name (any more). With `kept_too` also one that is to stay.
std::optional<Remains> sweep_name(AreaKinds kinds, const std::string& name, bool dry_run, bool kept_too = false);

// The same for every name that begins and ends like this, but for one that is spared, each by itself: what fails for one is
// its `reason`. `others`: without a look at what this process has made, which is a dozen system calls for each. Throws only
// if the names cannot be listed.
enum class Whose { anyone, others };
std::vector<Remains> sweep(AreaKinds kinds, const std::string& prefix, const std::string& suffix, bool dry_run,
                           const std::string& spared = {}, Whose whose = Whose::anyone);

// `locks` and `facts` are those of an area that had `name`: removes the name if its creator is dead. Throws if the
// system refuses to say.
Fate remove_if_dead(const AreaKind& kind, const std::string& name, const platform::FileFacts& facts,
                    const platform::LockFile& locks);

}  // namespace ringcast
