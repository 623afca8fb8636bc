// Which entries of a pool go when memory is wanted. One small file for each policy; all take leaves first, since a chunk whose
// parent is gone cannot be found.
//
// The owner tells of each entry that comes, is used and goes. It asks for victims in batches: those are out of the policy's
// queues at once, so that their parents may follow in the same batch, and it says of each whether it went (`forget`) or was
// held after all (`keep`).
//
//     victims(batch, [&](std::uint32_t entry) { return !pinned(entry); });
//     for (entry of batch) free(entry) ? policy.forget(entry, Gone::evicted) : policy.keep(entry);     // children before parents
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "pool/digest.hpp"
#include "pool/leaves.hpp"

namespace ringcast::pool {

enum class PolicyKind : std::uint8_t { lru, arc, s3fifo };
std::optional<PolicyKind> policy_named(std::string_view name);  // "lru", "arc", "s3fifo"
const char* name_of(PolicyKind kind);                           // "" for what is none

enum class Gone : std::uint8_t {
    evicted,  // and remembered by policies that learn from what they should have kept
    removed,  // aborted, cleared, broken
};

class Policy {
public:
    virtual ~Policy() = default;
    Policy(const Policy&) = delete;
    Policy& operator=(const Policy&) = delete;

    // `parent` is an entry, admitted before or right after this one, or kNoEntry. `tenant` is from 0 to tenants - 1.
    void admit(std::uint32_t entry, const Digest& digest, std::uint32_t parent, std::uint32_t tenant = 0);
    // Of a chain, the last entry first, so that the first is the hottest. Nothing if the entry is not here.
    void touch(std::uint32_t entry);
    // An entry without children goes, victim or not. An unknown one is passed over.
    void forget(std::uint32_t entry, Gone how);
    // A victim stays, in its old place.
    void keep(std::uint32_t entry);

    // Fills `into` with leaves, coldest first, for which may_go(entry) is true, of all tenants or of one; the others keep their
    // place. Returns how many there are.
    template <class MayGo>
    std::size_t victims(std::span<std::uint32_t> into, MayGo&& may_go, std::uint32_t tenant = kAnyTenant) {
        std::size_t count = 0;
        while (count < into.size()) {
            const std::uint32_t entry = next(tenant);
            if (entry == kNoEntry) break;
            if (may_go(entry)) {
                leaves_.take(entry);
                into[count++] = entry;
            } else {
                leaves_.set_aside(entry);
                aside_.push_back(entry);
            }
        }
        for (const std::uint32_t entry : aside_) leaves_.put_back(entry);
        aside_.clear();
        return count;
    }

protected:
    Policy(std::uint32_t entries, std::uint32_t queues, std::uint32_t tenants);

    // Which queue a new entry comes to.
    virtual std::uint32_t queue_for(std::uint32_t entry, std::uint64_t digest) = 0;
    virtual void used(std::uint32_t entry) = 0;
    // The leaf that should go next, still in its queue; kNoEntry if there is none.
    virtual std::uint32_t next(std::uint32_t tenant) = 0;
    // A leaf of that queue was evicted.
    virtual void evicted(std::uint64_t digest, std::uint32_t queue) = 0;

    Leaves leaves_;

private:
    std::vector<std::uint64_t> digests_;  // a word of each
    std::vector<std::uint32_t> aside_;
};

// For entries from 0 to `entries` - 1. Memory is counted for each tenant apart where they have quotas.
std::unique_ptr<Policy> make_policy(PolicyKind kind, std::uint32_t entries, std::uint32_t tenants = 1);

std::unique_ptr<Policy> make_lru(std::uint32_t entries, std::uint32_t tenants);
std::unique_ptr<Policy> make_arc(std::uint32_t entries, std::uint32_t tenants);
std::unique_ptr<Policy> make_s3fifo(std::uint32_t entries, std::uint32_t tenants);

}  // namespace ringcast::pool
