#include "sweep.hpp"

#include <cerrno>
#include <cstring>

#include "errors.hpp"
#include "fault_points.hpp"
#include "layout.hpp"
#include "locks.hpp"
#include "platform/process.hpp"

namespace ringcast {

Fate remove_if_dead(const std::string& name, const platform::FileFacts& facts, const platform::LockFile& locks) {
    if (locks.is_held_by_another(kCreatorLock)) return Fate::alive;
    if (!locks.try_lock(kRemovalLock)) return Fate::removing;
    reached(FaultPoint::removal_locked);
    const int error = platform::name_refers_to(name, facts) ? platform::unlink_name(name) : 0;
    reached(FaultPoint::removal_unlinked);
    locks.unlock(kRemovalLock);
    if (error != 0) throw_system_error("removing the name '" + name + "'", error);
    return Fate::removed;
}

std::optional<Remains> sweep_name(const std::string& name, bool dry_run) {
    Remains remains{
        .name = name, .user_name = {}, .creator_pid = 0, .committed_bytes = 0, .fate = Fate::skipped, .reason = {}};
    try {
        auto file = platform::SharedFile::open(name);
        const auto facts = file.facts();
        remains.committed_bytes = facts.committed;
        Header header{};
        if (!facts.regular)
            remains.reason = "it is not a regular file";
        else if (facts.owner != platform::user_id())
            remains.reason = "it belongs to uid " + std::to_string(facts.owner);
        else if (facts.bytes < sizeof header)
            remains.reason = "it has only " + std::to_string(facts.bytes) + " bytes";
        else if (file.read(&header, sizeof header); header.magic != kMagic)
            remains.reason = "it does not start with ringcast's magic number";
        if (!remains.reason.empty()) return remains;
        if (header.layout_version == kLayoutVersion) {  // the lock's meaning goes with the magic, the rest with this
            remains.creator_pid = header.creator_pid;
            if (header.named == 1) remains.user_name = text_of(header.user_name, sizeof header.user_name);
        }
        const platform::LockFile locks(std::move(file).into_locks(name));
        if (dry_run)
            remains.fate = locks.is_held_by_another(kCreatorLock) ? Fate::alive : Fate::dead;
        else
            remains.fate = remove_if_dead(name, facts, locks);
    } catch (const Error& error) {
        if (error.code() == ErrorCode::segment_not_found) return std::nullopt;
        remains.reason = error.what();
    }
    return remains;
}

std::vector<Remains> sweep(const std::string& prefix, const std::string& suffix, bool dry_run) {
    std::vector<Remains> found;
    for (const auto& name : platform::list_names(prefix))
        if (name.ends_with(suffix))
            if (auto remains = sweep_name(name, dry_run)) found.push_back(std::move(*remains));
    return found;
}

}  // namespace ringcast
