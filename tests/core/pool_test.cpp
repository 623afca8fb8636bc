// A pool with threads as its clients: they store, abort, give up, withdraw, retrieve and view under eviction, while
// servers end and others adopt. Each chunk says throughout which one it is.
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "pool/call.hpp"
#include "pool/client.hpp"
#include "pool/holding.hpp"
#include "pool/server.hpp"

using namespace ringcast;
using namespace ringcast::pool;

namespace {

constexpr std::uint32_t kChunk = 4096;
constexpr std::uint32_t kChunks = 64;
constexpr std::uint32_t kChains = 24;
constexpr std::uint32_t kLength = 8;  // of a chain
constexpr std::int64_t kRunNs = check::kScale == 1 ? 3'000'000'000 : 1'500'000'000;

using Chain = std::vector<Digest>;
Chain chain_of(std::uint64_t number) {
    Chain keys;
    for (std::uint64_t i = 0; i < kLength; ++i)
        keys.push_back(Digest{{(number * kLength + i + 1) * 0x9e37'79b9'7f4a'7c15, number, i, ~number}});
    return keys;
}
std::uint64_t word_of(const Digest& key, std::size_t i) { return key.words[0] + i; }

PoolMemory::Request request(const std::string& name) {
    PoolMemory::Request made;
    made.name = name;
    made.user_name = name;
    made.release = "test";
    made.geometry = plan_pool(std::uint64_t{kChunks} * kChunk, 8, 64, kChunks);
    made.kept = true;  // a server that ends leaves it to the next one
    return made;
}

class Worker {
public:
    Worker(const std::string& name, unsigned seed, const std::atomic<bool>& over)
        : random_(seed),
          over_(over),
          client_(Client::connect({.name = name, .release = "test", .worker_id = "w"}, 10'000'000'000)) {}
    void run() {
        while (!over_.load(std::memory_order_relaxed)) {
            const Chain keys = chain_of(below(kChains));
            if (below(3) == 0)
                store(keys);
            else
                retrieve(keys);
        }
        views_.clear();
        CHECK(client_->held() == 0);
    }
    std::uint64_t hits = 0;
    std::uint64_t stored = 0;

private:
    struct View {
        View(std::shared_ptr<Holding> of, std::uint32_t i, const Look& look, const Digest& of_key)
            : held(std::move(of)), index(i), entry(look.entry), key(of_key) {
            held->show(index, look);
        }
        View(View&&) = default;
        View& operator=(View&&) = default;
        ~View() {
            if (held) held->hide(index);
        }
        std::shared_ptr<Holding> held;
        std::uint32_t index;
        std::uint32_t entry;
        Digest key;
    };

    std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(random_() % n); }

    void check_chunk(std::uint32_t entry, const Digest& key) const {
        const auto* words = reinterpret_cast<const std::uint64_t*>(client_->memory().data() + client_->block(entry));
        for (std::size_t i = 0; i < kChunk / 8; ++i) CHECK(words[i] == word_of(key, i));
    }

    void retrieve(const Chain& keys) {
        std::vector<Look> looks;
        Status stopped{};
        client_->find_leading(keys, looks, stopped);
        auto held = std::make_shared<Holding>(client_);
        const auto pinned = client_->pin(looks, held->places);
        CHECK(pinned.count <= keys.size());
        for (std::uint32_t i = 0; i < pinned.count; ++i) check_chunk(looks[i].entry, keys[i]);
        hits += pinned.count;
        if (pinned.count != 0) {
            client_->touch(looks[pinned.count - 1].entry, pinned.count - 1);
            for (std::uint32_t n = below(3); n-- > 0;) {
                const std::uint32_t i = below(pinned.count);
                views_.emplace_back(held, i, looks[i], keys[i]);
            }
        }
        held->end();
        while (views_.size() > 4) {
            const View& oldest = views_.front();
            check_chunk(oldest.entry, oldest.key);
            views_.erase(views_.begin());
        }
    }

    // False: it was withdrawn, or the pool is between two servers for longer than the test lasts.
    bool ask(Call& call, Ask kind, std::uint32_t count) {
        call.begin(kind, count);
        if (below(16) == 0 && call.withdraw()) return false;
        if (call.briefly()) return true;
        for (;;) {
            const auto progress = call.slice(platform::monotonic_ns() + 50'000'000);
            if (progress == Call::Progress::answered) return true;
            CHECK(progress != Call::Progress::closed);
            if (over_.load(std::memory_order_relaxed) && call.withdraw()) return false;
        }
    }
    void take_slot(Call& call) {
        while (!call.take_slot()) std::this_thread::yield();
    }

    void store(const Chain& keys) {
        std::vector<Look> looks;
        Status stopped{};
        client_->find_leading(keys, looks, stopped);
        Client::Places before;
        const std::uint32_t there = client_->pin(looks, before).count;
        const auto missing = static_cast<std::uint32_t>(keys.size()) - there;
        Client::Places places;
        std::vector<Look> got(missing, Look{kNoEntry, 0});
        std::vector<bool> pinned;
        if (missing != 0) {
            Call call(*client_);
            take_slot(call);
            NativeMailSlot& slot = call.slot();
            slot.length.store(kChunk, std::memory_order_relaxed);
            slot.parts.store(1, std::memory_order_relaxed);
            slot.chained.store(1, std::memory_order_relaxed);
            slot.has_parent.store(there != 0 ? 1 : 0, std::memory_order_relaxed);
            for (std::size_t k = 0; k < 4 && there != 0; ++k)
                slot.parent[k].store(keys[there - 1].words[k], std::memory_order_relaxed);
            slot.tenant.store(0, std::memory_order_relaxed);
            slot.space.store(0, std::memory_order_relaxed);
            for (std::uint32_t i = 0; i < missing; ++i)
                for (std::size_t k = 0; k < 4; ++k)
                    slot.items[i].digest[k].store(keys[there + i].words[k], std::memory_order_relaxed);
            if (!ask(call, Ask::reserve, missing)) {
                client_->unpin(before);
                return;
            }
            for (std::uint32_t i = 0; i < missing; ++i) {
                const MailItem& item = slot.items[i];
                if (static_cast<Status>(item.status.load(std::memory_order_relaxed)) != Status::reserved) continue;
                got[i] = {item.entry.load(std::memory_order_relaxed),
                          entry_word(item.generation.load(std::memory_order_relaxed), EntryState::reserved)};
            }
            client_->pin_each(got, places, pinned);
            call.take();
        }
        client_->unpin(before);
        std::vector<std::uint32_t> mine;
        for (std::uint32_t i = 0; i < missing; ++i)
            if (pinned[i]) mine.push_back(i);
        for (const std::uint32_t i : mine) {
            auto* words =
                reinterpret_cast<std::uint64_t*>(client_->memory().writable_data() + client_->block(got[i].entry));
            for (std::size_t k = 0; k < kChunk / 8; ++k) words[k] = word_of(keys[there + i], k);
        }
        // Sometimes it is given up, in words or without.
        if (const std::uint32_t how = below(8); !mine.empty() && how != 0) {
            Call call(*client_);
            take_slot(call);
            call.slot().checked.store(0, std::memory_order_relaxed);
            call.slot().parts.store(kNoPart, std::memory_order_relaxed);
            for (std::size_t i = 0; i < mine.size(); ++i) {
                MailItem& item = call.slot().items[i];
                item.entry.store(got[mine[i]].entry, std::memory_order_relaxed);
                item.generation.store(generation_of(got[mine[i]].word), std::memory_order_relaxed);
            }
            if (ask(call, how == 1 ? Ask::abort : Ask::commit, static_cast<std::uint32_t>(mine.size()))) {
                for (std::size_t i = 0; i < mine.size() && how != 1; ++i)
                    if (static_cast<Status>(call.slot().items[i].status.load(std::memory_order_relaxed)) ==
                        Status::committed)
                        ++stored;
                call.take();
            }
        }
        client_->unpin(places);
    }

    std::mt19937 random_;
    const std::atomic<bool>& over_;
    std::shared_ptr<Client> client_;
    std::vector<View> views_;
};

void run_with(PolicyKind policy, const std::string& name) {
    const Server::Options options{.memory = request(name), .policy = policy};
    auto server = std::make_unique<Server>(options);
    CHECK(!server->adopted());
    std::atomic<bool> over{false};
    std::vector<std::unique_ptr<Worker>> workers;
    for (unsigned i = 0; i < 4; ++i) workers.push_back(std::make_unique<Worker>(name, i + 1, over));
    std::vector<std::thread> threads;
    for (auto& worker : workers) threads.emplace_back([&worker] { worker->run(); });
    const std::int64_t until = platform::monotonic_ns() + kRunNs;
    while (platform::monotonic_ns() < until) {
        std::this_thread::sleep_for(std::chrono::nanoseconds(kRunNs / 5));
        server.reset();
        server = std::make_unique<Server>(options);
        CHECK(server->adopted());
    }
    over.store(true, std::memory_order_relaxed);
    for (std::thread& thread : threads) thread.join();
    std::uint64_t hits = 0;
    std::uint64_t stored = 0;
    for (const auto& worker : workers) hits += worker->hits, stored += worker->stored;
    CHECK(hits > 0 && stored > kChunks);
    CHECK(server->memory()->words().evicted.load() > 0 && server->memory()->words().aborted.load() > 0);
    workers.clear();
    server.reset();
    platform::unlink_name(name);
}

// Reserves and commits these keys, each the child of the one before. What the server said of the last.
Status store_chain(Client& client, const Chain& keys) {
    const auto answered = [](Call& call) {
        while (!call.briefly() && call.slice(platform::monotonic_ns() + 50'000'000) != Call::Progress::answered) {
        }
    };
    const auto count = static_cast<std::uint32_t>(keys.size());
    Call reserving(client);
    CHECK(reserving.take_slot());
    NativeMailSlot& slot = reserving.slot();
    slot.length.store(kChunk, std::memory_order_relaxed);
    slot.chained.store(1, std::memory_order_relaxed);
    for (auto* word : {&slot.has_parent, &slot.checked}) word->store(0, std::memory_order_relaxed);
    slot.parts.store(1, std::memory_order_relaxed);
    for (std::uint32_t i = 0; i < count; ++i)
        for (std::size_t k = 0; k < 4; ++k) slot.items[i].digest[k].store(keys[i].words[k], std::memory_order_relaxed);
    reserving.begin(Ask::reserve, count);
    answered(reserving);
    Status status{};
    std::vector<Look> got;
    for (std::uint32_t i = 0; i < count; ++i) {
        status = static_cast<Status>(slot.items[i].status.load(std::memory_order_relaxed));
        if (status != Status::reserved) break;
        const std::uint32_t generation = slot.items[i].generation.load(std::memory_order_relaxed);
        got.push_back(
            {slot.items[i].entry.load(std::memory_order_relaxed), entry_word(generation, EntryState::reserved)});
    }
    Client::Places places;
    std::vector<bool> pinned;
    client.pin_each(got, places, pinned);
    reserving.take();
    if (status == Status::reserved) {
        Call committing(client);
        CHECK(committing.take_slot());
        committing.slot().checked.store(0, std::memory_order_relaxed);
        committing.slot().parts.store(kNoPart, std::memory_order_relaxed);
        for (std::uint32_t i = 0; i < count; ++i) {
            committing.slot().items[i].entry.store(got[i].entry, std::memory_order_relaxed);
            committing.slot().items[i].generation.store(generation_of(got[i].word), std::memory_order_relaxed);
        }
        committing.begin(Ask::commit, count);
        answered(committing);
        committing.take();
    }
    client.unpin(places);
    return status;
}

}  // namespace

// So few chunks that none goes before it must, and somebody who pins and unpins, again and again, the one that goes next.
TEST(a_victim_that_is_pinned_while_it_goes_makes_no_store_fail) {
    constexpr std::uint32_t kFew = 16;
    const std::string name = "ringcast_pool_test_pins_" + std::to_string(getpid());
    PoolMemory::Request made = request(name);
    made.geometry = plan_pool(std::uint64_t{kFew} * kChunk, 8, 64, kFew);
    made.kept = false;
    const Server server({.memory = made, .policy = PolicyKind::lru});
    const auto connect = [&] {
        return Client::connect({.name = name, .release = "test", .worker_id = "w"}, 10'000'000'000);
    };
    const auto key_of = [](std::uint64_t n) { return Digest{{(n + 1) * 0x9e37'79b9'7f4a'7c15, n, ~n, n}}; };
    std::atomic<std::uint64_t> next_victim{0};
    std::atomic<bool> over{false};
    std::atomic<std::uint64_t> pins{0};
    std::thread flickering([&] {
        const auto client = connect();
        while (!over.load(std::memory_order_relaxed)) {
            const Chain keys{key_of(next_victim.load(std::memory_order_relaxed))};
            std::vector<Look> looks;
            Status stopped{};
            client->find_leading(keys, looks, stopped);
            Client::Places places;
            pins.fetch_add(client->pin(looks, places).count, std::memory_order_relaxed);
            client->unpin(places);
        }
    });
    const auto client = connect();
    for (std::uint64_t n = 0; n < 100'000 / check::kScale; ++n) {
        next_victim.store(n - std::min<std::uint64_t>(n, kFew), std::memory_order_relaxed);
        CHECK(store_chain(*client, {key_of(n)}) == Status::reserved);
    }
    over.store(true, std::memory_order_relaxed);
    flickering.join();
    CHECK(pins.load() > 0 && server.memory()->words().no_memory.load() == 0);
}

// Somebody who pins the last of a chain while the chain goes sees it cease to be there and come back, and then, once more
// pinned than any eviction can overlook, what comes before it is there.
TEST(a_chain_that_is_kept_comes_back_parents_first) {
    constexpr std::uint32_t kLong = 48;
    const std::string name = "ringcast_pool_test_chain_" + std::to_string(getpid());
    PoolMemory::Request made = request(name);
    made.geometry = plan_pool(std::uint64_t{2} * kLong * kChunk, 8, 64, 2 * kLong);
    made.kept = false;
    const Server server({.memory = made, .policy = PolicyKind::lru});
    const auto connect = [&] {
        return Client::connect({.name = name, .release = "test", .worker_id = "w"}, 10'000'000'000);
    };
    const auto chain = [](std::uint64_t n) {
        Chain keys;
        for (std::uint64_t i = 0; i < kLong; ++i)
            keys.push_back(Digest{{(n * kLong + i + 1) * 0x9e37'79b9'7f4a'7c15, n, i, ~n}});
        return keys;
    };
    std::atomic<std::uint64_t> next_victim{0};
    std::atomic<bool> over{false};
    std::atomic<std::uint64_t> came_back{0};
    std::uint64_t orphans = 0;
    std::thread flickering([&] {
        const auto client = connect();
        const auto& index = client->memory().index();
        const auto word = [&](const Look& look) {
            return index.entries[look.entry].word.load(std::memory_order_acquire);  // acquire [entry]
        };
        while (!over.load(std::memory_order_relaxed)) {
            const Chain keys = chain(next_victim.load(std::memory_order_relaxed));
            std::vector<Look> looks;
            Status stopped{};
            if (client->find_leading(keys, looks, stopped) < kLong / 2) continue;
            const Look first = looks.front(), last = looks.back();
            Client::Places places;
            const auto goes_within = [&](int looks_at_it) {
                while (looks_at_it-- > 0)
                    if (word(last) != last.word) return true;
                return false;
            };
            // Mostly not pinned, or it would not be chosen; and then for as long as it takes to choose all of them.
            while (!over.load(std::memory_order_relaxed) && !goes_within(5000) &&
                   client->pin({&last, 1}, places).count != 0) {
                const bool went = goes_within(2000);
                while (went && !over.load(std::memory_order_relaxed) && word(last) != last.word) {
                }
                // Pinned since before this eviction's end: no other one takes it, nor what it hangs from.
                if (went) came_back.fetch_add(1, std::memory_order_relaxed);
                if (went && word(last) == last.word && word(first) != first.word) ++orphans;
                client->unpin(places);
                places.clear();
            }
        }
    });
    const auto client = connect();
    const std::int64_t until = platform::monotonic_ns() + kRunNs;
    for (std::uint64_t n = 0; platform::monotonic_ns() < until && came_back.load() < 1000; ++n) {
        next_victim.store(n - std::min<std::uint64_t>(n, 2), std::memory_order_relaxed);
        store_chain(*client, chain(n));
    }
    over.store(true, std::memory_order_relaxed);
    flickering.join();
    CHECK(orphans == 0);
}

TEST(clients_store_and_retrieve_while_servers_end_and_others_adopt) {
    run_with(PolicyKind::arc, "ringcast_pool_test_" + std::to_string(getpid()));
}
