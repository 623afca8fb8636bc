// What a native loop over many messages owes the rest of the process: now and then it lets other threads run Python, and
// runs the handlers of signals that have come.
#pragma once

#include <nanobind/nanobind.h>
#include <cstdint>

#include "platform/clock.hpp"
#include "unlocked.hpp"

namespace ringcast::bindings {

class Courtesy {
public:
    // `every`: so many steps of the loop are too short to look at the clock between them.
    explicit Courtesy(std::uint32_t every) noexcept : every_(every) {}

    // Once a step. Is it time to be courteous?
    bool is_due() noexcept {
        if (++steps_ < every_) return false;
        steps_ = 0;
        return platform::monotonic_ns() >= next_;
    }
    // Throws what a signal's handler raises.
    void pause() {
        {
            const Unlocked unlocked;
        }
        if (PyErr_CheckSignals() != 0) throw nanobind::python_error();
        next_ = platform::monotonic_ns() + kIntervalNs;
    }

private:
    static constexpr std::int64_t kIntervalNs = 5'000'000;  // as the interpreter's own threads switch

    std::uint32_t every_;
    std::uint32_t steps_ = 0;
    std::int64_t next_ = platform::monotonic_ns() + kIntervalNs;
};

}  // namespace ringcast::bindings
