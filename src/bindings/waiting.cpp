#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>

#include "modules.hpp"
#include "platform/policy.hpp"
#include "waiting.hpp"

namespace nb = nanobind;

namespace ringcast::bindings {

void bind_waiting(nb::module_& module) {
    module.def("memory_fence", &platform::Native::fence_seq_cst,
               "A full fence of the hardware: no load or store of this thread moves across it.");

    const auto as_tuple = [](const Strategy& s) {
        return nb::make_tuple(s.spin_ns, s.yield_ns, s.park_ns, s.adaptive);
    };
    nb::dict strategies;
    strategies["adaptive"] = as_tuple(Strategy::adaptive_default());
    strategies["spin"] = as_tuple(Strategy::spin());
    strategies["yield"] = as_tuple(Strategy::yield());
    strategies["park"] = as_tuple(Strategy::park());
    module.attr("STRATEGIES") = strategies;
    module.attr("FOREVER_NS") = kForever;
    module.attr("LONGEST_PARK_NS") = kSliceNs;
}

}  // namespace ringcast::bindings
