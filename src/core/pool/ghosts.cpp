#include "pool/ghosts.hpp"

#include <algorithm>
#include <bit>

namespace ringcast::pool {

Ghosts::Ghosts(std::uint32_t room)
    : nodes_(std::max(room, 1u)), buckets_(std::bit_ceil(std::size_t{std::max(room, 1u)}), kNone) {
    for (auto at = static_cast<std::uint32_t>(nodes_.size()); at-- != 0;) {
        nodes_[at].same_bucket = spare_;
        spare_ = at;
    }
}

void Ghosts::add(std::uint64_t digest, std::uint32_t queue) {
    take(digest);
    if (spare_ == kNone) drop_oldest(ends_[1].size > ends_[0].size ? 1 : 0);
    const std::uint32_t at = spare_;
    spare_ = nodes_[at].same_bucket;
    Ends& ends = ends_[queue];
    std::uint32_t& bucket = bucket_of(digest);
    nodes_[at] = Node{digest, bucket, ends.newest, kNone, queue};
    bucket = at;
    (ends.newest == kNone ? ends.oldest : nodes_[ends.newest].newer) = at;
    ends.newest = at;
    ++ends.size;
}

std::uint32_t Ghosts::take(std::uint64_t digest) {
    std::uint32_t at = bucket_of(digest);
    while (at != kNone && nodes_[at].digest != digest) at = nodes_[at].same_bucket;
    if (at == kNone) return kNone;
    remove(at);
    return nodes_[at].queue;
}

void Ghosts::drop_oldest(std::uint32_t queue) {
    if (ends_[queue].oldest != kNone) remove(ends_[queue].oldest);
}

void Ghosts::remove(std::uint32_t at) {
    Node& node = nodes_[at];
    std::uint32_t* link = &bucket_of(node.digest);
    while (*link != at) link = &nodes_[*link].same_bucket;
    *link = node.same_bucket;
    Ends& ends = ends_[node.queue];
    (node.older == kNone ? ends.oldest : nodes_[node.older].newer) = node.newer;
    (node.newer == kNone ? ends.newest : nodes_[node.newer].older) = node.older;
    --ends.size;
    node.same_bucket = spare_;
    spare_ = at;
}

}  // namespace ringcast::pool
