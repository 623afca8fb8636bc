// A pool's client: looks keys up, pins what is read, and asks the server where memory changes hands.
//
// A hit is loads and stores in shared memory and no message; the server may be busy, stopped or dead. Requests: call.hpp.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "heirs.hpp"
#include "pool/memory.hpp"
#include "pool/parts.hpp"
#include "pool/pins.hpp"
#include "turn.hpp"
#include "waiting.hpp"

namespace ringcast::pool {

// Where callers are serialised by an interpreter's lock, that is enough.
struct NoMutex {
    void lock() noexcept {}
    void unlock() noexcept {}
};
using CallersMutex = std::conditional_t<kCallersSerialised, NoMutex, std::mutex>;

class Client final : private Estate {
public:
    struct Options {
        std::string name;  // of the area, complete
        std::string release;
        std::string worker_id;
        Strategy waiting = Strategy::adaptive_default();
    };
    // Throws segment_not_found, also if no server lives there; capacity if no seat is vacant within `patience_ns`.
    static std::shared_ptr<Client> connect(const Options& options, std::int64_t patience_ns);
    ~Client();
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    const PoolMemory& memory() const noexcept { return *memory_; }
    PoolMemory& memory() noexcept { return *memory_; }
    bool in_forked_child() const noexcept { return memory_->in_forked_child(); }
    std::uint32_t seat() const noexcept { return seat_; }
    // Does the pool have a record of this namespace, or has it been told?
    bool knows_space(const Digest& space);
    void told_space(const Digest& space);
    std::uint32_t held() noexcept;
    std::uint32_t room() noexcept;  // for pins

    // The leading keys that are there; `looks` says where. What ends them is told by `stopped`: miss, pending, or
    // tiered.
    std::uint32_t find_leading(std::span<const Digest> keys, std::vector<Look>& looks, Status& stopped) const;
    // Each key by itself: an entry of kNoEntry is not there.
    void find_each(std::span<const Digest> keys, std::vector<Look>& looks, std::vector<Status>& statuses) const;
    // How many leading keys are in memory, and how many in memory or in a tier of this machine.
    struct Counted {
        std::uint32_t memory = 0;
        std::uint32_t total = 0;
    };
    Counted lookup(std::span<const Digest> keys) const;

    using Places = std::vector<Place>;
    // See pin_leading.
    Pinned<Native> pin(std::span<const Look> looks, Places& places);
    // Each by itself, in states that `looks` says; false where it had changed, with no place then.
    bool pin_each(std::span<const Look> looks, Places& places, std::vector<bool>& pinned, std::uint32_t part = kNoPart);
    bool holds(const Look& look) noexcept;
    void unpin(Places& places) noexcept;
    void unpin(const Place& place) noexcept;
    // Holds from here on, of a place that holds a run, only as much of it as ends with this look.
    void shorten(const Place& place, const Look& to) noexcept;
    void touch(std::uint32_t entry, std::uint32_t ancestors, bool by_store = false) noexcept;

    std::uint64_t block(std::uint32_t entry) const noexcept {
        return memory_->index().entries[entry].block.load(std::memory_order_relaxed);
    }
    std::uint32_t length(std::uint32_t entry) const noexcept {
        return memory_->index().entries[entry].length.load(std::memory_order_relaxed);
    }
    // Where a part's bytes begin, in the data part.
    std::uint64_t offset(std::uint32_t entry, Part part) const noexcept {
        return block(entry) + part.number * part_bytes(length(entry), part.of);
    }
    // Are the bytes of a part of a pinned chunk what was stored? Looked at once for each in this process.
    bool is_intact(const Look& look, Part part);
    // The same by whoever has just summed them.
    bool is_intact(const Look& look, Part part, std::uint32_t found) noexcept;

    // The seat is given back when nothing is pinned and nothing asked any more: at once, or by the last `unpin` or call. Once it
    // is, it may be another client's: nothing is pinned or said in it, and what is tried to be has changed.
    void close() noexcept;
    bool closed() const noexcept { return closed_.load(std::memory_order_relaxed); }

private:
    friend class Call;
    Client(std::unique_ptr<PoolMemory> memory, std::uint32_t seat, const Options& options);
    // Gives the seat back if that is due; under `pinning_`.
    void leave_if_done() noexcept;
    void note_since(std::span<const Place> places) noexcept;
    void ring() noexcept;

    // For forked children: another seat becomes theirs, with the same pins.
    const platform::LockFile& locks() const noexcept override { return memory_->locks(); }
    void hold_still() noexcept override { pinning_.lock(); }
    void go_on() noexcept override { pinning_.unlock(); }
    bool is_empty() const noexcept override { return row_.held() == 0; }
    std::uint64_t added() const noexcept override { return row_.puts(); }
    std::uint32_t make_image(int locks) noexcept override;
    std::uint64_t word_of(std::uint32_t image) const noexcept override {
        return memory_->seat(image).state.load(std::memory_order_relaxed);
    }
    void inherited(std::uint32_t image) noexcept override;
    void keep() noexcept override { row_.keep(); }

    std::unique_ptr<PoolMemory> memory_;
    std::uint32_t seat_;
    Strategy waiting_;
    CallersMutex pinning_;
    PinRow<Native> row_;
    std::mutex slots_;
    std::uint32_t slots_in_use_ = 0;  // a bit each; guarded by `slots_`
    std::array<std::uint32_t, kMailSlots> numbers_{};
    WaitCounters<Native> counters_{};
    std::uint32_t sum_of(std::uint32_t entry, Part part) const noexcept;

    std::vector<std::atomic<std::uint64_t>> intact_;  // by entry: what was found right last, see client.cpp
    std::vector<Digest> known_spaces_;  // guarded by `slots_`; the one that was asked for last is the last
    std::atomic<bool> closed_{false};
    bool left_ = false;  // guarded by `pinning_`
    Mapping image_;      // the seat of the last children that inherited
    std::optional<Heirs> heirs_;
};

}  // namespace ringcast::pool
