// The extension module ringcast._core.
#include <nanobind/nanobind.h>

#include "desk_layout.hpp"
#include "layout.hpp"
#include "modules.hpp"
#include "pool/pool_layout.hpp"
#include "segment.hpp"
#include "version.hpp"

namespace nb = nanobind;

// The binding library's own entry point under another name: ours looks first, because in a sub-interpreter already its
// start would take the process's types away from the main one.
#define PyInit__core ringcast_bindings_init
NB_MODULE(_core, module) {
    nb::set_leak_warnings(false);  // ends that live until the interpreter's exit are closed there; nothing is printed
    module.attr("VERSION") = ringcast::bindings::kVersion;
    module.attr("LAYOUT_VERSION") = ringcast::kLayoutVersion;
    module.attr("POOL_LAYOUT_VERSION") = ringcast::pool::kPoolLayoutVersion;
    module.attr("DESK_LAYOUT_VERSION") = ringcast::kDeskLayoutVersion;
    module.attr("NOBODY") = ringcast::kNobody;
    module.attr("STREAM") = ringcast::kStream;
    module.attr("MAX_READERS") = ringcast::kMaxReaders;
    module.attr("MAX_SEGMENT_NAME_BYTES") = ringcast::platform::kMaxNameBytes;
    module.attr("MAX_USER_NAME_BYTES") = ringcast::kUserNameBytes - 1;
    ringcast::bindings::bind_errors(module);
    ringcast::bindings::bind_arguments(module);
    ringcast::bindings::bind_waiting(module);
    ringcast::bindings::bind_segment(module);
    ringcast::bindings::bind_desk(module);
    ringcast::bindings::bind_buffers(module);
    ringcast::bindings::bind_write_chunks(module);
    ringcast::bindings::bind_read_chunks(module);
    ringcast::bindings::bind_end(module);
    ringcast::bindings::bind_tap(module);
    ringcast::bindings::bind_channel(module);
    ringcast::bindings::bind_flows(module);
    ringcast::bindings::bind_selection(module);
    ringcast::bindings::bind_foreign_code(module);
    ringcast::bindings::bind_guard(module);
    ringcast::bindings::bind_pool_keys(module);
    ringcast::bindings::bind_pool_hashing(module);
    ringcast::bindings::bind_pool_policies(module);
    ringcast::bindings::bind_pool_client(module);
    ringcast::bindings::bind_pool_server(module);
    ringcast::bindings::bind_pool_memory(module);
    ringcast::bindings::bind_pool_tier_jobs(module);
    ringcast::bindings::bind_pool_tiers(module);
#ifdef RINGCAST_FAULT_POINTS
    ringcast::bindings::bind_faults(module);
#endif
}
#undef PyInit__core

extern "C" NB_EXPORT PyObject* PyInit__core() {
    if (PyInterpreterState_Get() == PyInterpreterState_Main()) return ringcast_bindings_init();
    PyErr_SetString(
        PyExc_ImportError,
        "ringcast cannot be imported in a sub-interpreter: its types and its fork and exit handlers belong to "
        "the process. Import it in the main interpreter, or use a process of its own.");
    return nullptr;
}
