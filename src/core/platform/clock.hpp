// Clocks. Every deadline is on the monotonic clock, so a change of the wall clock moves no time-out.
#pragma once

#include <cstdint>
#include <ctime>

namespace ringcast::platform {

inline std::int64_t read_clock_ns(clockid_t clock) noexcept {
    timespec now{};
    clock_gettime(clock, &now);
    return static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

inline std::int64_t monotonic_ns() noexcept { return read_clock_ns(CLOCK_MONOTONIC); }
// Of the calling thread, on whatever CPU.
inline std::int64_t thread_cpu_ns() noexcept { return read_clock_ns(CLOCK_THREAD_CPUTIME_ID); }
// Good to some milliseconds, for a third of the price.
inline std::uint32_t coarse_milliseconds() noexcept {
#ifdef CLOCK_MONOTONIC_COARSE
    return static_cast<std::uint32_t>(read_clock_ns(CLOCK_MONOTONIC_COARSE) / 1'000'000);
#else
    return static_cast<std::uint32_t>(monotonic_ns() / 1'000'000);
#endif
}
inline std::int64_t coarse_wall_clock_ns() noexcept {
#ifdef CLOCK_REALTIME_COARSE
    return read_clock_ns(CLOCK_REALTIME_COARSE);
#else
    return read_clock_ns(CLOCK_REALTIME);
#endif
}
inline std::int64_t wall_clock_ns() noexcept { return read_clock_ns(CLOCK_REALTIME); }

// Between two looks at something that wakes nobody when it changes: a millisecond.
inline void nap() noexcept {
    const timespec millisecond{.tv_sec = 0, .tv_nsec = 1'000'000};
    nanosleep(&millisecond, nullptr);
}

}  // namespace ringcast::platform
