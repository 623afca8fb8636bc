// How an end's waits have ended, for Python.
#pragma once

#include <nanobind/nanobind.h>

#include "wait_counters.hpp"

namespace ringcast::bindings {

inline nanobind::dict as_dict(const WaitCounts& counts) {
    nanobind::dict result;
    result["brief"] = counts.brief;
    result["awake"] = counts.awake;
    result["parked"] = counts.parked;
    result["parks"] = counts.parks;
    result["rescued_wakes"] = counts.rescued_wakes;
    result["long_waits"] = counts.long_waits;
    result["vain_ns"] = counts.vain_ns;
    result["wake_ns"] = counts.wake_ns;
    result["penalties"] = counts.penalties;
    return result;
}

}  // namespace ringcast::bindings
