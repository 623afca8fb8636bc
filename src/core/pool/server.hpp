// A pool's server: one native thread, which needs no interpreter, serves the mailboxes and looks after the seats.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "pool/hit_rate_meter.hpp"
#include "pool/keeper.hpp"
#include "pool/memory.hpp"
#include "pool/tier_driver.hpp"
#include "waiting.hpp"

namespace ringcast::pool {

class Server {
public:
    struct Options {
        PoolMemory::Request memory;
        PolicyKind policy = PolicyKind::arc;
        Keeper::Quotas quotas{};
        Strategy waiting = Strategy::adaptive_default();
        std::vector<TierDriver::Options> tiers{};  // the fastest first; the native ones outlive the server
        std::int64_t tier_patience_ns = 0;         // see TierDriver
    };

    // Makes the pool, or adopts what a dead server left, and serves it. Throws what PoolMemory::serve throws, and
    // std::system_error if no thread can be had.
    explicit Server(const Options& options);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    // Ends it in order, once: waits for its thread, and removes the pool, unless it is to be kept. Threads of tiers are
    // waited for only so long: `abandoned` says that some go on, with what they use.
    void close() noexcept;
    bool abandoned() const noexcept { return abandoned_.load(std::memory_order_relaxed); }
    // For the threads that do a tier's work, if it is not native; until it has ended.
    TierDriver& tiers() noexcept { return *tiers_; }
    bool closed() const noexcept { return closed_.load(std::memory_order_relaxed); }
    bool adopted() const noexcept { return adopted_; }
    // The pool's, as its users call it.
    const std::string& name() const noexcept { return name_; }
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
    // A request that is answered later, when tiers have done what it asks for.
    struct Deferred {
        Owner owner;
        bool over = false;  // withdrawn, or its client is gone
    };
    using DeferredRequest = std::shared_ptr<Deferred>;
    // Chunks that tiers are asked for: these keys, behind that entry, which is still to be what it was when they answer.
    struct Wanted {
        Storing storing;
        bool chained;
        std::vector<Digest> keys;
        std::uint32_t parent;
        std::uint32_t generation;
        DeferredRequest request;
    };

    void run() noexcept;
    bool rung() const noexcept;
    void announce_changes() noexcept;

    // --- Mailboxes: server_mail.cpp.
    bool take_requests();
    bool serve_seat(std::uint32_t seat);
    void serve_slot(std::uint32_t seat, std::uint32_t slot);
    bool copy(NativeMailSlot& slot, std::uint64_t word);
    bool is_deferred(const Owner& owner) const noexcept;
    DeferredRequest defer();
    void answer_deferred(const DeferredRequest& request, Refusal refusal) noexcept;

    // --- What is done for them: server_requests.cpp.
    enum class Done : std::uint8_t { yes, no, later };
    Done perform(NativeMailSlot& slot);
    Storing asked_by(const Owner& owner) const noexcept;
    Done perform_clear();
    Done perform_promote();
    void perform_reserve(NativeMailSlot& slot);
    bool perform_join(NativeMailSlot& slot);
    bool perform_describe();
    void bring(const Wanted& wanted, std::span<const std::uint32_t> found);
    void note_misses();

    // --- Seats.
    void look_after_seats();
    void look_after(std::uint32_t seat);
    void give_back(std::uint32_t seat);
    void take_touches();
    void note_access(std::uint32_t entry, std::uint32_t ancestors);

    std::uint32_t fork_generation_ = platform::fork_generation();
    std::string name_;
    mutable std::mutex closing_;
    bool adopted_ = false;  // set while `memory_` is made
    std::shared_ptr<PoolMemory> memory_;
    Keeper keeper_;
    std::unique_ptr<TierDriver> tiers_;
    std::vector<DeferredRequest> deferred_;
    std::vector<std::uint64_t> touches_seen_;
    Request request_;
    std::unique_ptr<HitRateMeter> meter_;
    std::vector<Digest> accessed_;
    std::vector<std::uint32_t> missed_;  // of a request: what was reserved
    std::atomic<bool> stopping_{false};  // relaxed: `rouse` of parking.hpp orders it
    std::atomic<bool> closed_{false};
    std::atomic<bool> abandoned_{false};
    WaitCounters<Native> counters_{};
    Waiter<Native> waiter_;
    std::thread thread_;
};

}  // namespace ringcast::pool
