// What a forked child inherits of a seat: the views that were alive at that moment.
//
// To the writer a child is a reader that left with its views alive, which it knows already: before the fork a spare seat
// is made the image of the parent's, as left, with the same marks, and its lock byte is taken on a description that the
// child inherits and the parent closes. So what the parent viewed then is kept until the child, and whoever it forks,
// has ended or become another program, in whatever order the parent lets go. Children of the same views share an image,
// and its lock. Where no seat is free, or no descriptor, the parent never gives those blocks back.
//
// It costs a fork some microseconds for each seat that has views, and no copy of what they show.
#pragma once

#include <atomic>
#include <cstdint>

namespace ringcast {

class Segment;

class Heirs {
public:
    Heirs(const Segment& segment, std::uint32_t seat) noexcept;
    ~Heirs();
    Heirs(const Heirs&) = delete;
    Heirs& operator=(const Heirs&) = delete;

    // The seat gets a lease on message `position`: its number. With the end's turn.
    std::uint64_t leased(std::uint64_t position) noexcept {
        reached_.store(position + 1, std::memory_order_relaxed);
        const std::uint64_t number = leases_.load(std::memory_order_relaxed) + 1;
        leases_.store(number, std::memory_order_relaxed);
        return number;
    }
    // Is a lease of this number a child's, too, for which there was no seat?
    bool keep(std::uint64_t number) const noexcept { return number <= kept_.load(std::memory_order_relaxed); }

private:
    friend struct HeirsRegistry;
    static constexpr std::uint32_t kNoSeat = UINT32_MAX;

    void before_fork() noexcept;
    void after_fork_in_parent() noexcept;
    void after_fork_in_child() noexcept;
    int open_locks() const noexcept;
    bool join_image() noexcept;
    bool make_image() noexcept;

    const Segment& segment_;
    std::uint32_t seat_;
    std::uint32_t fork_generation_;
    std::atomic<std::uint64_t> leases_{0};   // how many there have been
    std::atomic<std::uint64_t> reached_{0};  // behind the last message that was leased
    std::atomic<std::uint64_t> kept_{0};     // leases up to this one are never given back
    int inherited_ = -1;                     // during a fork: the description that the child keeps
    std::uint32_t image_ = kNoSeat;          // the last one
    std::uint64_t image_word_ = 0;           // its state
    std::uint64_t image_leases_ = 0;         // leases_ when it was made
    Heirs* next_ = nullptr;
    Heirs* previous_ = nullptr;
};

}  // namespace ringcast
