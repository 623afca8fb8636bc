#include "pool/policy.hpp"

#include <cassert>

namespace ringcast::pool {

Policy::Policy(std::uint32_t entries, std::uint32_t queues, std::uint32_t tenants)
    : leaves_(entries, queues, tenants), digests_(entries) {}

void Policy::admit(std::uint32_t entry, const Digest& digest, std::uint32_t parent, std::uint32_t tenant) {
    digests_[entry] = digest.words[0];
    leaves_.add(entry, parent, queue_for(entry, digest.words[0]), tenant);
}

void Policy::touch(std::uint32_t entry) {
    if (leaves_.has(entry)) used(entry);
}

void Policy::forget(std::uint32_t entry, Gone how) {
    if (leaves_.has(entry)) {
        assert(leaves_.is_leaf(entry));
        leaves_.take(entry);
    }
    const std::uint32_t queue = leaves_.drop(entry);
    if (how == Gone::evicted && queue != Leaves::kNowhere) evicted(digests_[entry], queue);
}

void Policy::keep(std::uint32_t entry) { leaves_.restore(entry); }

std::optional<PolicyKind> policy_named(std::string_view name) {
    if (name == "lru") return PolicyKind::lru;
    if (name == "arc") return PolicyKind::arc;
    if (name == "s3fifo") return PolicyKind::s3fifo;
    return std::nullopt;
}

const char* name_of(PolicyKind kind) {
    switch (kind) {
        case PolicyKind::lru:
            return "lru";
        case PolicyKind::arc:
            return "arc";
        case PolicyKind::s3fifo:
            return "s3fifo";
    }
    return "";
}

std::unique_ptr<Policy> make_policy(PolicyKind kind, std::uint32_t entries, std::uint32_t tenants) {
    switch (kind) {
        case PolicyKind::lru:
            return make_lru(entries, tenants);
        case PolicyKind::arc:
            return make_arc(entries, tenants);
        case PolicyKind::s3fifo:
            return make_s3fifo(entries, tenants);
    }
    return nullptr;
}

}  // namespace ringcast::pool
