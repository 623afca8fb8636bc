// What decides which chunks go: leaves, ghosts and policies, against plain models that search everything.
#include <algorithm>
#include <deque>
#include <random>
#include <vector>

#include "check.hpp"
#include "pool/ghosts.hpp"
#include "pool/leaves.hpp"
#include "pool/policy.hpp"

using namespace ringcast::pool;

namespace {

constexpr std::uint32_t kEntries = 24;

struct Plain {  // an entry
    bool here = false;
    std::uint32_t parent = kNoEntry;
    std::uint32_t queue = 0;
    std::uint32_t tenant = 0;
    std::uint64_t used = 0;
};
using Entries = std::vector<Plain>;

bool is_leaf(const Entries& all, std::uint32_t entry) {
    return std::ranges::none_of(all, [&](const Plain& one) { return one.here && one.parent == entry; });
}

std::uint32_t coldest(const Entries& all, std::uint32_t queue, std::uint32_t tenant) {
    std::uint32_t found = kNoEntry;
    for (std::uint32_t e = 0; e < kEntries; ++e) {
        const Plain& one = all[e];
        if (!one.here || one.queue != queue || (tenant != kAnyTenant && one.tenant != tenant) || !is_leaf(all, e))
            continue;
        if (found == kNoEntry || one.used < all[found].used) found = e;
    }
    return found;
}

}  // namespace

TEST(the_coldest_leaf_of_each_queue_and_tenant_is_found) {
    std::mt19937 random(1);
    const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
    Leaves leaves(kEntries, 2, 3);
    Entries plain(kEntries);
    std::uint64_t clock = 0;
    for (int step = 0; step < 3000 * check::kScale; ++step) {
        const std::uint32_t e = below(kEntries);
        const std::uint32_t queue = below(2);
        if (!plain[e].here) {
            std::uint32_t parent = below(kEntries);
            if (parent == e || !plain[parent].here) parent = kNoEntry;
            plain[e] = {true, parent, queue, below(3), ++clock};
            leaves.add(e, parent, queue, plain[e].tenant);
        } else if (below(3) != 0) {
            plain[e].queue = queue;
            plain[e].used = ++clock;
            leaves.move(e, queue);
        } else if (is_leaf(plain, e)) {
            leaves.take(e);
            if (below(2) == 0) {
                leaves.restore(e);
            } else {
                CHECK(leaves.drop(e) == plain[e].queue);
                plain[e].here = false;
            }
        }
        for (std::uint32_t q = 0; q < 2; ++q)
            for (const std::uint32_t tenant : {0u, 1u, 2u, kAnyTenant})
                CHECK(leaves.coldest(q, tenant) == coldest(plain, q, tenant));
    }
}

TEST(what_is_set_aside_is_passed_over_until_it_is_put_back) {
    Leaves leaves(4, 1, 1);
    for (std::uint32_t e = 0; e < 3; ++e) leaves.add(e, kNoEntry, 0, 0);
    leaves.set_aside(0);
    CHECK(leaves.coldest(0, kAnyTenant) == 1);
    leaves.set_aside(1);
    leaves.put_back(0);
    CHECK(leaves.coldest(0, kAnyTenant) == 0);
    leaves.put_back(1);
    CHECK(leaves.coldest(0, kAnyTenant) == 0);
}

TEST(ghosts_remember_the_youngest_of_each_queue) {
    constexpr std::uint32_t kRoom = 8;
    std::mt19937_64 random(1);
    Ghosts ghosts(kRoom);
    std::deque<std::uint64_t> plain[2];  // oldest first
    const auto queue_with = [&](std::uint64_t digest) {
        for (std::uint32_t q = 0; q < 2; ++q)
            if (std::ranges::find(plain[q], digest) != plain[q].end()) return q;
        return Ghosts::kNone;
    };
    for (int step = 0; step < 3000 * check::kScale; ++step) {
        const std::uint64_t digest = random() % 24 * 16;  // many in one bucket
        const std::uint32_t in = queue_with(digest);
        if (random() % 2 == 0) {
            CHECK(ghosts.take(digest) == in);
            if (in != Ghosts::kNone) std::erase(plain[in], digest);
        } else if (in == Ghosts::kNone) {
            const auto queue = static_cast<std::uint32_t>(random() % 2);
            const std::size_t before[2] = {plain[0].size(), plain[1].size()};
            const bool full = before[0] + before[1] == kRoom;
            ghosts.add(digest, queue);
            if (full) {
                const std::uint32_t shrunk = ghosts.size(0) < before[0] + (queue == 0 ? 1 : 0) ? 0 : 1;
                CHECK(before[shrunk] >= before[1 - shrunk]);
                plain[shrunk].pop_front();
            }
            plain[queue].push_back(digest);
        }
        for (std::uint32_t q = 0; q < 2; ++q) CHECK(ghosts.size(q) == plain[q].size());
    }
}

// Whatever a policy prefers: it takes leaves alone, of the tenant that was asked for, each once, children before parents,
// and all that may go if it is asked for enough.
TEST(policies_take_leaves_alone_and_all_that_may_go) {
    for (const PolicyKind kind : {PolicyKind::lru, PolicyKind::arc, PolicyKind::s3fifo}) {
        std::mt19937 random(1);
        const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
        const auto policy = make_policy(kind, kEntries, 2);
        Entries plain(kEntries);
        for (int step = 0; step < 2000 * check::kScale; ++step) {
            const std::uint32_t e = below(kEntries);
            if (!plain[e].here) {
                std::uint32_t parent = below(kEntries);
                if (parent == e || !plain[parent].here) parent = kNoEntry;
                plain[e] = {true, parent, 0, parent == kNoEntry ? below(2) : plain[parent].tenant, 0};
                policy->admit(e, Digest{{below(64) * 16, 0, 0, 0}}, parent, plain[e].tenant);
            } else if (below(4) != 0) {
                policy->touch(e);
            } else {
                const std::uint32_t pinned = below(kEntries);
                const std::uint32_t tenant = below(3) == 2 ? kAnyTenant : below(2);
                Entries left = plain;
                std::vector<std::uint32_t> batch(1 + below(kEntries));
                batch.resize(policy->victims(batch, [&](std::uint32_t one) { return one != pinned; }, tenant));
                for (const std::uint32_t one : batch) {
                    CHECK(left[one].here && is_leaf(left, one) && one != pinned);
                    CHECK(tenant == kAnyTenant || left[one].tenant == tenant);
                    left[one].here = false;
                }
                // Children come first, so who is kept keeps its parents.
                for (const std::uint32_t one : batch) {
                    const bool has_child = !is_leaf(plain, one);
                    if (has_child || below(4) == 0) {
                        policy->keep(one);

                    } else {
                        policy->forget(one, Gone::evicted);
                        plain[one].here = false;
                    }
                }
            }
        }
        // In the end everything can go.
        std::vector<std::uint32_t> rest(kEntries);
        rest.resize(policy->victims(rest, [](std::uint32_t) { return true; }));
        CHECK(rest.size() == static_cast<std::size_t>(std::ranges::count_if(plain, &Plain::here)));
    }
}
