// Digests of what was evicted, in two queues, oldest first: what ARC and S3-FIFO learn from. Room for a fixed number.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace ringcast::pool {

class Ghosts {
public:
    static constexpr std::uint32_t kQueues = 2;
    static constexpr std::uint32_t kNone = 0xffff'ffff;

    explicit Ghosts(std::uint32_t room);

    // A digest is known by a word of it. When there is no room the oldest of the larger queue goes first.
    void add(std::uint64_t digest, std::uint32_t queue);
    // Takes it out and says which queue it was in; kNone if it is not there.
    std::uint32_t take(std::uint64_t digest);
    void drop_oldest(std::uint32_t queue);
    std::uint32_t size(std::uint32_t queue) const { return ends_[queue].size; }

private:
    struct Node {
        std::uint64_t digest;
        std::uint32_t same_bucket;
        std::uint32_t older;
        std::uint32_t newer;
        std::uint32_t queue;
    };
    struct Ends {
        std::uint32_t oldest = kNone;
        std::uint32_t newest = kNone;
        std::uint32_t size = 0;
    };

    std::uint32_t& bucket_of(std::uint64_t digest) { return buckets_[digest & (buckets_.size() - 1)]; }
    void remove(std::uint32_t at);

    std::vector<Node> nodes_;
    std::vector<std::uint32_t> buckets_;
    std::array<Ends, kQueues> ends_;
    std::uint32_t spare_ = kNone;
};

}  // namespace ringcast::pool
