// N. Megiddo, D. Modha, "ARC: a self-tuning, low overhead replacement cache", FAST 2003, over leaves.
//
// What was used once, and what was used again, are two queues by recency. A ghost that comes back says that its queue was too
// short, and moves the target. The paper's cache has a size; here it is what is in memory when somebody asks, since memory
// is counted in bytes and eviction runs ahead of need.
#include <algorithm>

#include "pool/ghosts.hpp"
#include "pool/policy.hpp"

namespace ringcast::pool {

namespace {

class Arc final : public Policy {
public:
    Arc(std::uint32_t entries, std::uint32_t tenants) : Policy(entries, 2, tenants), ghosts_(entries) {}

private:
    static constexpr std::uint32_t kOnce = 0;
    static constexpr std::uint32_t kAgain = 1;
    static constexpr double kForgetting = 4096;  // evictions, until a larger number of entries counts a third

    double resident() const { return static_cast<double>(leaves_.size(kOnce)) + leaves_.size(kAgain); }

    std::uint32_t queue_for(std::uint32_t, std::uint64_t digest) override {
        const double once = ghosts_.size(kOnce), again = ghosts_.size(kAgain);
        switch (ghosts_.take(digest)) {
            case kOnce:
                target_ = std::min(std::max(resident(), size_), target_ + std::max(again / once, 1.0));
                return kAgain;
            case kAgain:
                target_ = std::max(0.0, target_ - std::max(once / again, 1.0));
                return kAgain;
            default:
                return kOnce;
        }
    }

    void used(std::uint32_t entry) override { leaves_.move(entry, kAgain); }

    std::uint32_t next(std::uint32_t tenant) override {
        size_ = std::max(resident(), size_);
        const std::uint32_t first = leaves_.size(kOnce) > target_ ? kOnce : kAgain;
        const std::uint32_t found = leaves_.coldest(first, tenant);
        return found != kNoEntry ? found : leaves_.coldest(1 - first, tenant);
    }

    // Of the used once, in memory and ghosts together, there are no more than entries in memory; of all, twice as many.
    void evicted(std::uint64_t digest, std::uint32_t queue) override {
        size_ = std::max(resident(), size_ - size_ / kForgetting);
        ghosts_.add(digest, queue);
        while (ghosts_.size(kOnce) != 0 && leaves_.size(kOnce) + ghosts_.size(kOnce) > size_)
            ghosts_.drop_oldest(kOnce);
        while (ghosts_.size(kAgain) != 0 && ghosts_.size(kOnce) + ghosts_.size(kAgain) > size_)
            ghosts_.drop_oldest(kAgain);
    }

    Ghosts ghosts_;
    double target_ = 0;  // entries used once that should be in memory
    double size_ = 0;    // the paper's c: the most that were in memory, lately
};

}  // namespace

std::unique_ptr<Policy> make_arc(std::uint32_t entries, std::uint32_t tenants) {
    return std::make_unique<Arc>(entries, tenants);
}

}  // namespace ringcast::pool
