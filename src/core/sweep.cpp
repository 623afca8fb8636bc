#include "sweep.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "errors.hpp"
#include "fault_points.hpp"
#include "locks.hpp"
#include "platform/process.hpp"

namespace ringcast {

Fate remove_if_dead(const AreaKind& kind, const std::string& name, const platform::FileFacts& facts,
                    const platform::LockFile& locks) {
    const auto lives = [&] { return locks.is_held_by_another(kCreatorLock, kind.life_locks); };
    if (lives()) return Fate::alive;
    if (!locks.try_lock(kRemovalLock)) return Fate::removing;
    reached(FaultPoint::removal_locked);
    if (kind.life_locks > 1 && lives()) {
        locks.unlock(kRemovalLock);
        return Fate::alive;
    }
    const int error = platform::name_refers_to(name, facts) ? platform::unlink_name(name) : 0;
    reached(FaultPoint::removal_unlinked);
    locks.unlock(kRemovalLock);
    if (error != 0) throw_system_error("removing the name '" + name + "'", error);
    return Fate::removed;
}

std::optional<Remains> sweep_name(AreaKinds kinds, const std::string& name, bool dry_run, bool kept_too) {
    Remains remains{
        .name = name, .user_name = {}, .creator_pid = 0, .committed_bytes = 0, .fate = Fate::skipped, .reason = {}};
    try {
        auto file = platform::SharedFile::open(name);
        const auto facts = file.facts();
        remains.committed_bytes = facts.committed;
        const AreaKind& shortest = **std::ranges::min_element(kinds, {}, &AreaKind::header_bytes);
        AreaHeader header{};
        if (!facts.regular)
            remains.reason = "it is not a regular file";
        else if (facts.owner != platform::user_id())
            remains.reason = "it belongs to uid " + std::to_string(facts.owner);
        else if (facts.bytes < shortest.header_bytes)
            remains.reason = "it has only " + std::to_string(facts.bytes) + " bytes";
        else {
            file.read(&header, sizeof header);
            const auto found = std::ranges::find(kinds, header.magic, &AreaKind::magic);
            if (found == kinds.end())
                remains.reason = "it does not start with ringcast's magic number";
            else if (facts.bytes < (*found)->header_bytes)
                remains.reason = "it has only " + std::to_string(facts.bytes) + " bytes";
            else
                remains.kind = *found;
        }
        if (!remains.reason.empty()) return remains;
        const AreaKind& kind = *remains.kind;
        std::vector<std::byte> bytes(kind.header_bytes);
        file.read(bytes.data(), bytes.size());
        // The locks' meaning goes with the magic, the rest of the header with the version.
        if (header.layout_version == kind.layout_version) {
            Origin origin = kind.origin(bytes.data());
            remains.creator_pid = origin.creator_pid;
            remains.creator_pid_namespace = origin.creator_pid_namespace;
            remains.user_name = std::move(origin.user_name);
        }
        const platform::LockFile locks(std::move(file).into_locks(name), name);
        const bool stays = !kept_too && kind.is_kept != nullptr && kind.is_kept(bytes.data());
        if (dry_run || stays)
            remains.fate = locks.is_held_by_another(kCreatorLock, kind.life_locks) ? Fate::alive
                           : stays                                                 ? Fate::kept
                                                                                   : Fate::dead;
        else
            remains.fate = remove_if_dead(kind, name, facts, locks);
    } catch (const Error& error) {
        if (error.code() == ErrorCode::segment_not_found) return std::nullopt;
        remains.reason = error.what();
    }
    return remains;
}

std::vector<Remains> sweep(AreaKinds kinds, const std::string& prefix, const std::string& suffix, bool dry_run,
                           const std::string& spared, Whose whose) {
    std::vector<Remains> found;
    for (const auto& name : platform::list_names(prefix))
        if (name.ends_with(suffix) && name != spared && (whose == Whose::anyone || !platform::is_vouched_for(name)))
            if (auto remains = sweep_name(kinds, name, dry_run)) found.push_back(std::move(*remains));
    return found;
}

}  // namespace ringcast
