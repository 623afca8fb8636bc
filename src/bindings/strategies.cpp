#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "modules.hpp"
#include "platform/policy.hpp"
#include "platform/process.hpp"
#include "py_errors.hpp"
#include "unlocked.hpp"
#include "waiting.hpp"
#include "wake_up.hpp"

namespace nb = nanobind;

namespace ringcast::bindings {

void bind_waiting(nb::module_& module) {
    static PyMethodDef fence{"memory_fence",
                             [](PyObject*, PyObject*) {
                                 platform::Native::fence_seq_cst();
                                 return Py_NewRef(Py_None);
                             },
                             METH_NOARGS,
                             "memory_fence()\n--\n\n"
                             "A full fence of the hardware: no load or store of this thread moves across it.\n\n"
                             ">>> memory_fence()"};
    const nb::str name("ringcast.waiting");  // where it is offered
    module.attr("memory_fence") = owned(PyCFunction_NewEx(&fence, nullptr, name.ptr()));

    const auto as_tuple = [](const Strategy& s) {
        return nb::make_tuple(s.spin_ns, s.yield_ns, s.park_ns, s.adaptive);
    };
    nb::dict strategies;
    strategies["adaptive"] = as_tuple(Strategy::adaptive_default());
    strategies["spin"] = as_tuple(Strategy::spin());
    strategies["yield"] = as_tuple(Strategy::yield());
    strategies["park"] = as_tuple(Strategy::park());
    strategies["busy"] = as_tuple(Strategy::busy(kBusyWindowNs));
    module.attr("STRATEGIES") = strategies;
    module.attr("FOREVER_NS") = kForever;
    module.attr("LONGEST_PARK_NS") = kSliceNs;
    module.attr("BUSY_WINDOW_NS") = kBusyWindowNs;
    module.def("set_time_slice", &platform::set_time_slice, nb::arg("ns"));
    module.def(
        "measure_wake_ups",
        [](std::uint32_t count, std::int64_t pause_ns) {
            const Unlocked unlocked;
            return measure_wake_ups(count, pause_ns);
        },
        nb::arg("count"), nb::arg("pause_ns"));
}

}  // namespace ringcast::bindings
