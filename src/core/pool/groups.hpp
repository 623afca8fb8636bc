// Who fills which part of the chunks that are being stored by groups.
//
// The server's, which gives each part to one client, once. It is in no shared memory, and need not be: a client that has
// joined says so by its pin, which names the part, or can still come to know of it by its mailbox; so a server that adopts a
// pool finds out again (Keeper::find_members).
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "pool/parts.hpp"

namespace ringcast::pool {

// Whose a reservation is: a seat's client, and which of its requests.
struct Owner {
    std::uint32_t seat;
    std::uint32_t incarnation;
    std::uint32_t slot;
    std::uint32_t request;

    bool operator==(const Owner&) const = default;
    bool is_client_of(const Owner& other) const noexcept {
        return seat == other.seat && incarnation == other.incarnation;
    }
};

class Groups {
public:
    struct Member {
        std::uint32_t part;
        Owner owner;
    };

    const Member* member(std::uint32_t entry, std::uint32_t part) const noexcept {
        const auto group = groups_.find(entry);
        if (group == groups_.end()) return nullptr;
        for (const Member& member : group->second)
            if (member.part == part) return &member;
        return nullptr;
    }
    const std::vector<Member>* members(std::uint32_t entry) const noexcept {
        const auto group = groups_.find(entry);
        return group == groups_.end() ? nullptr : &group->second;
    }
    bool has_member(std::uint32_t entry, const Owner& client) const noexcept {
        const auto group = groups_.find(entry);
        if (group == groups_.end()) return false;
        for (const Member& member : group->second)
            if (member.owner.is_client_of(client)) return true;
        return false;
    }
    // Nobody has that part yet.
    void join(std::uint32_t entry, std::uint32_t part, const Owner& owner) { groups_[entry].push_back({part, owner}); }
    // Nobody heard that this request was granted.
    void undo(const Owner& owner) noexcept {
        for (auto& group : groups_)
            std::erase_if(group.second, [&](const Member& member) { return member.owner == owner; });
    }
    // It is not being stored any more.
    void forget(std::uint32_t entry) noexcept { groups_.erase(entry); }

private:
    std::unordered_map<std::uint32_t, std::vector<Member>> groups_;  // by entry; of those that nobody joined, none
};

}  // namespace ringcast::pool
