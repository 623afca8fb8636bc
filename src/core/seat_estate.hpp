// What a reader's seat holds: blocks of messages that its leases show.
#pragma once

#include <atomic>
#include <cstdint>

#include "heirs.hpp"

namespace ringcast {

class Segment;

class SeatEstate final : public Estate {
public:
    SeatEstate(const Segment& segment, std::uint32_t seat) noexcept : segment_(segment), seat_(seat) {}

    // The seat gets a lease on message `position`: its number. With the end's turn.
    std::uint64_t leased(std::uint64_t position) noexcept {
        reached_.store(position + 1, std::memory_order_relaxed);
        const std::uint64_t number = leases_.load(std::memory_order_relaxed) + 1;
        leases_.store(number, std::memory_order_relaxed);
        return number;
    }
    // Is a lease of this number a child's, too, for which there was no seat?
    bool is_kept(std::uint64_t number) const noexcept { return number <= kept_.load(std::memory_order_relaxed); }

    const platform::LockFile& locks() const noexcept override;
    bool is_empty() const noexcept override;
    std::uint64_t added() const noexcept override { return leases_.load(std::memory_order_relaxed); }
    std::uint32_t make_image(int locks) noexcept override;
    std::uint64_t word_of(std::uint32_t image) const noexcept override;
    void inherited(std::uint32_t image) noexcept override;
    void keep() noexcept override { kept_.store(added(), std::memory_order_relaxed); }

private:
    const Segment& segment_;
    std::uint32_t seat_;
    std::atomic<std::uint64_t> leases_{0};   // how many there have been
    std::atomic<std::uint64_t> reached_{0};  // behind the last message that was leased
    std::atomic<std::uint64_t> kept_{0};     // leases up to this one are never given back
};

}  // namespace ringcast
