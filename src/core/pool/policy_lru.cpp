// The leaf whose last use is the longest ago.
#include "pool/policy.hpp"

namespace ringcast::pool {

namespace {

class Lru final : public Policy {
public:
    Lru(std::uint32_t entries, std::uint32_t tenants) : Policy(entries, 1, tenants) {}

private:
    std::uint32_t queue_for(std::uint32_t, std::uint64_t) override { return 0; }
    void used(std::uint32_t entry) override { leaves_.move(entry, 0); }
    std::uint32_t next(std::uint32_t tenant) override { return leaves_.coldest(0, tenant); }
    void evicted(std::uint64_t, std::uint32_t) override {}
};

}  // namespace

std::unique_ptr<Policy> make_lru(std::uint32_t entries, std::uint32_t tenants) {
    return std::make_unique<Lru>(entries, tenants);
}

}  // namespace ringcast::pool
