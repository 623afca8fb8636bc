// J. Yang, Y. Zhang, Z. Qiu, Y. Yue, R. Vinayak, "FIFO queues are all you need for cache eviction", SOSP 2023, over leaves.
//
// New entries wait in a small queue; who is used there, or comes back while its ghost is known, joins the main queue, where each
// use counts for one more turn, up to three. Two things differ from the paper. Who is used moves at once, not when its turn
// to go comes: a chunk with children has no such turn. And the small queue is a quarter of all, not a tenth, which leaves
// alone cannot do with: up to 3 points on the traces of the benchmarks.
#include "pool/ghosts.hpp"
#include "pool/policy.hpp"

namespace ringcast::pool {

namespace {

class S3Fifo final : public Policy {
public:
    S3Fifo(std::uint32_t entries, std::uint32_t tenants)
        : Policy(entries, 2, tenants), ghosts_(entries), uses_(entries) {}

private:
    static constexpr std::uint32_t kSmall = 0;
    static constexpr std::uint32_t kMain = 1;
    static constexpr std::uint32_t kShareOfSmall = 4;  // one in so many
    static constexpr std::uint8_t kMostUses = 3;

    std::uint32_t queue_for(std::uint32_t entry, std::uint64_t digest) override {
        uses_[entry] = 0;
        return ghosts_.take(digest) == Ghosts::kNone ? kSmall : kMain;
    }

    void used(std::uint32_t entry) override {
        if (leaves_.queue_of(entry) == kSmall) {
            leaves_.move(entry, kMain);
        } else if (uses_[entry] < kMostUses) {
            ++uses_[entry];
        }
    }

    // Each turn of the loop takes a use away or ends it.
    std::uint32_t next(std::uint32_t tenant) override {
        for (;;) {
            const std::uint32_t small = leaves_.size(kSmall), main = leaves_.size(kMain);
            const std::uint32_t first = small > (small + main) / kShareOfSmall ? kSmall : kMain;
            std::uint32_t entry = leaves_.coldest(first, tenant);
            if (entry == kNoEntry) entry = leaves_.coldest(1 - first, tenant);
            if (entry == kNoEntry || uses_[entry] == 0) return entry;
            --uses_[entry];
            leaves_.move(entry, kMain);
        }
    }

    void evicted(std::uint64_t digest, std::uint32_t queue) override {
        if (queue != kSmall) return;
        ghosts_.add(digest, 0);
        const std::uint32_t size = leaves_.size(kSmall) + leaves_.size(kMain);
        while (ghosts_.size(0) > size + 1) ghosts_.drop_oldest(0);
    }

    Ghosts ghosts_;
    std::vector<std::uint8_t> uses_;
};

}  // namespace

std::unique_ptr<Policy> make_s3fifo(std::uint32_t entries, std::uint32_t tenants) {
    return std::make_unique<S3Fifo>(entries, tenants);
}

}  // namespace ringcast::pool
