#include "seat_estate.hpp"

#include <algorithm>

#include "locks.hpp"
#include "marks.hpp"
#include "platform/process.hpp"
#include "segment.hpp"

namespace ringcast {

namespace {
constexpr std::uint32_t kImages = kSpareSeats / 2;  // readers are to find seats as well
}  // namespace

const platform::LockFile& SeatEstate::locks() const noexcept { return segment_.locks(); }

bool SeatEstate::is_empty() const noexcept {
    return segment_.ring().seats[seat_].leased_blocks.load(std::memory_order_relaxed) == 0;
}

std::uint64_t SeatEstate::word_of(std::uint32_t image) const noexcept {
    return segment_.ring().seats[image].state.load(std::memory_order_relaxed);
}

void SeatEstate::inherited(std::uint32_t image) noexcept {
    segment_.ring().seats[image].pid.store(platform::process_id(), std::memory_order_relaxed);
}

std::uint32_t SeatEstate::make_image(int locks) noexcept {
    const auto& ring = segment_.ring();
    const NativeSeat& mine = ring.seats[seat_];
    for (std::uint32_t i = std::max(ring.n_seats - kImages, seat_ + 1); i < ring.n_seats; ++i) {
        NativeSeat& image = ring.seats[i];
        const SeatState before = seat_state(image.state.load(std::memory_order_relaxed));
        if (before != SeatState::vacant && before != SeatState::evicted) continue;
        if (!platform::try_lock_on(locks, seat_lock(i), platform::Sharing::exclusive)) continue;
        const auto copy = [](auto& to, const auto& from) {
            to.store(from.load(std::memory_order_relaxed), std::memory_order_relaxed);
        };
        copy(image.rank, mine.rank);
        copy(image.pid, mine.pid);
        copy(image.pid_namespace, mine.pid_namespace);
        copy(image.leased_blocks, mine.leased_blocks);
        copy(image.leased_bytes, mine.leased_bytes);
        return ringcast::make_image(ring, seat_, i, reached_.load(std::memory_order_relaxed),
                                    segment_.geometry().max_leases)
                   ? i
                   : kNoSeat;
    }
    return kNoSeat;
}

}  // namespace ringcast
