// The memory of C++20, operationally: what each thread may read, and what it learns by reading.
//
// A location is the list of its stores in modification order. A view says, for each location, the first store that may
// still be read, and, for each thread, how much of what it did happened before. A thread has three: what it knows
// (`now`), what it will know after an acquire fence (`acquire`), and what a relaxed store of it passes on (`release`:
// its knowledge at its last release fence). A store carries a view; a load that acquires joins it. A read-modify-write
// carries on the view of the store it read: that is a release sequence, in its C++20 form. The seq_cst fences share
// one further view, into which and from which each joins what may be read (but nothing of what happened before).
//
// A store may be put anywhere in the modification order after what its thread knows, except between a read-modify-write
// and the store that it read. Not modelled: a load that reads a store executed later (load buffering), seq_cst accesses
// (the core has none, only seq_cst fences), consume.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <source_location>
#include <vector>

namespace model {

inline constexpr std::size_t kMaxThreads = 8;
inline constexpr std::size_t kMaxLocations = 56;
inline constexpr std::size_t kMaxLocks = 6;
inline constexpr std::uint8_t kNoThread = 255;

using Site = std::source_location;

struct View {
    std::array<std::uint8_t, kMaxLocations> seen{};  // positions in the modification orders
    std::array<std::uint8_t, kMaxThreads> clock{};

    void join_seen(const View& other) {
        for (std::size_t i = 0; i < seen.size(); ++i) seen[i] = seen[i] > other.seen[i] ? seen[i] : other.seen[i];
    }
    void join(const View& other) {
        join_seen(other);
        for (std::size_t i = 0; i < clock.size(); ++i) clock[i] = clock[i] > other.clock[i] ? clock[i] : other.clock[i];
    }
};

using Value = std::array<std::uint64_t, 3>;  // an atomic's value is the first word; plain bytes may need all

struct Store {
    Value value;
    View view;
    std::uint8_t thread = kNoThread;  // kNoThread: the value at the start
    std::uint8_t clock = 0;           // of its thread
    std::uint8_t serial = 0;          // in the order of execution
    bool updates = false;             // a read-modify-write: nothing may come between it and the store before it
    Site site;
};

struct Location {
    std::vector<Store> stores;                        // in modification order
    std::array<std::uint8_t, kMaxThreads> read_at{};  // plain bytes: the reader's clock at its last read
};

struct ThreadViews {
    View now, acquire, release;
};

constexpr bool acquires(std::memory_order order) {
    return order == std::memory_order_acquire || order == std::memory_order_acq_rel ||
           order == std::memory_order_seq_cst;
}
constexpr bool releases(std::memory_order order) {
    return order == std::memory_order_release || order == std::memory_order_acq_rel ||
           order == std::memory_order_seq_cst;
}

class Memory {
public:
    void reset(const std::vector<Value>& initial);
    void add(const Value& initial);
    Location& location(std::uint32_t id) { return locations_[id]; }
    const Location& location(std::uint32_t id) const { return locations_[id]; }
    const ThreadViews& thread(std::uint8_t id) const { return threads_[id]; }
    std::size_t locations() const { return used_; }
    ThreadViews& thread(std::uint8_t id) { return threads_[id]; }
    void tick(std::uint8_t thread);

    // Thread `thread` reads the store at `position`.
    void read(std::uint8_t thread, std::uint32_t id, std::uint8_t position, std::memory_order order);
    // Puts a store after the one at `position`; one that updates it, if `updates`.
    Store& write(std::uint8_t thread, std::uint32_t id, std::uint8_t position, const Value& value,
                 std::memory_order order, bool updates, Site site);
    void fence(std::uint8_t thread, std::memory_order order);

    // The kernel's side of a futex: who wakes and who goes to sleep take the same lock in the kernel.
    void pass_to_kernel(std::uint8_t thread, std::uint32_t id) { in_kernel_[id].join_seen(threads_[thread].now); }
    const View& known_to_kernel(std::uint32_t id) const { return in_kernel_[id]; }
    // Time has passed: every store has become visible.
    void see_everything(std::uint8_t thread);
    // The kernel's side of a lock: all that its last holder did happens before what a thread does from now on.
    void leave_in_lock(std::uint8_t thread, std::size_t which) { in_locks_[which] = threads_[thread].now; }
    void order_after_lock(std::uint8_t thread, std::size_t which);

private:
    std::array<Location, kMaxLocations> locations_;
    std::array<View, kMaxLocations> in_kernel_;
    std::array<View, kMaxLocks> in_locks_;
    std::array<ThreadViews, kMaxThreads> threads_;
    View fences_;  // what the seq_cst fences share
    std::size_t used_ = 0;
};

}  // namespace model
