// Only in a build with RINGCAST_FAULT_POINTS: how tests arm the fault points of this process.
#include "fault_points.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <algorithm>
#include <iterator>
#include <string>

#include "modules.hpp"

namespace nb = nanobind;

namespace ringcast::bindings {

namespace {

constexpr const char* kActions[] = {"none", "kill", "stop", "delay", "yield"};  // in FaultAction's order

template <class Names>
std::size_t index_of(const Names& names, const std::string& name, const char* what) {
    const auto found = std::find(std::begin(names), std::end(names), name);
    if (found == std::end(names))
        throw nb::value_error((std::string("there is no fault ") + what + " " + name).c_str());
    return static_cast<std::size_t>(found - std::begin(names));
}

void arm(const std::string& point, const std::string& action, std::uint64_t nth, std::int64_t delay_us) {
    arm_fault(index_of(fault_point_names, point, "point"),
              static_cast<FaultAction>(index_of(kActions, action, "action")), nth, delay_us * 1000);
}

nb::dict times_reached() {
    nb::dict times;
    for (std::size_t i = 0; i < faults.size(); ++i)
        times[fault_point_names[i]] = faults[i].times_reached.load(std::memory_order_relaxed);
    return times;
}

}  // namespace

void bind_faults(nb::module_& module) {
    using namespace nb::literals;
    module.def("_arm_fault", &arm, "point"_a, "action"_a, "nth"_a = 1, "delay_us"_a = 0);
    module.def("_times_reached", &times_reached);
}

}  // namespace ringcast::bindings
