// Which byte of a segment's lock file says what.
#pragma once

#include <cstdint>

namespace ringcast {

inline constexpr std::uint64_t kCreatorLock = 0;  // held from before the segment is visible until its creator is gone
inline constexpr std::uint64_t seat_lock(std::uint32_t seat) { return 1 + std::uint64_t{seat}; }
inline constexpr std::uint64_t rank_lock(std::uint32_t rank) { return (std::uint64_t{1} << 32) + rank; }
inline constexpr std::uint64_t kRemovalLock = std::uint64_t{1} << 34;  // held by who removes a dead creator's name

}  // namespace ringcast
