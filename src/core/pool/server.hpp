// A pool's server: one native thread, which needs no interpreter, serves the mailboxes and looks after the seats.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "pool/hit_rate_meter.hpp"
#include "pool/keeper.hpp"
#include "pool/memory.hpp"
#include "waiting.hpp"

namespace ringcast::pool {

class Server {
public:
    struct Options {
        PoolMemory::Request memory;
        PolicyKind policy = PolicyKind::arc;
        Keeper::Quotas quotas;
        Strategy waiting = Strategy::adaptive_default();
    };

    // Makes the pool, or adopts what a dead server left, and serves it. Throws what PoolMemory::serve throws, and
    // std::system_error if no thread can be had.
    explicit Server(const Options& options);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    // Ends it in order, once: waits for its thread, and removes the pool, unless it is to be kept.
    void close() noexcept;
    bool closed() const noexcept { return closed_.load(std::memory_order_relaxed); }
    bool adopted() const noexcept { return adopted_; }
    // Null once it is closed.
    std::shared_ptr<const PoolMemory> memory() const {
        const std::lock_guard guard(closing_);
        return memory_;
    }
    bool in_forked_child() const noexcept { return fork_generation_ != platform::fork_generation(); }

private:
    // What a client asks, copied before any of it is believed.
    struct Request {
        Owner owner{};
        Ask kind{};
        std::uint32_t count = 0;
        std::uint32_t length = 0;
        bool chained = false;
        bool has_parent = false;
        bool checked = false;
        std::uint32_t parts = 0;
        Digest parent{};
        std::uint64_t tenant = 0;
        std::uint64_t space = 0;
        struct Item {
            Digest key;
            std::uint32_t entry;
            std::uint32_t generation;
            std::uint32_t checksum;
        } items[kBatch];
    };

    void run() noexcept;
    bool take_requests();
    bool serve_seat(std::uint32_t seat);
    void serve_slot(std::uint32_t seat, std::uint32_t slot);
    bool copy(NativeMailSlot& slot, std::uint64_t word);
    bool perform(NativeMailSlot& slot);
    void perform_reserve(NativeMailSlot& slot);
    bool perform_join(NativeMailSlot& slot);
    bool perform_describe();
    void look_after_seats();
    void look_after(std::uint32_t seat);
    void give_back(std::uint32_t seat);
    void take_touches();
    void note_access(std::uint32_t entry, std::uint32_t ancestors);
    void note_misses();
    void announce_changes() noexcept;
    bool rung() const noexcept;

    std::uint32_t fork_generation_ = platform::fork_generation();
    mutable std::mutex closing_;
    bool adopted_ = false;  // set while `memory_` is made
    std::shared_ptr<PoolMemory> memory_;
    Keeper keeper_;
    std::vector<std::uint64_t> touches_seen_;
    Request request_;
    std::unique_ptr<HitRateMeter> meter_;
    std::vector<Digest> accessed_;
    std::vector<std::uint32_t> missed_;  // of a request: what was reserved
    std::atomic<bool> stopping_{false};  // relaxed: `rouse` of parking.hpp orders it
    std::atomic<bool> closed_{false};
    WaitCounters counters_;
    Waiter<Native> waiter_;
    std::thread thread_;
};

}  // namespace ringcast::pool
