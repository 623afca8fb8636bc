// What each file of the bindings adds to the module.
#pragma once

#include <nanobind/nanobind.h>

namespace ringcast::bindings {

void bind_errors(nanobind::module_& module);
void bind_arguments(nanobind::module_& module);
void bind_waiting(nanobind::module_& module);
void bind_segment(nanobind::module_& module);
void bind_desk(nanobind::module_& module);
void bind_buffers(nanobind::module_& module);
void bind_write_chunks(nanobind::module_& module);
void bind_read_chunks(nanobind::module_& module);
void bind_end(nanobind::module_& module);
void bind_selection(nanobind::module_& module);
void bind_tap(nanobind::module_& module);
void bind_channel(nanobind::module_& module);
void bind_flows(nanobind::module_& module);
void bind_foreign_code(nanobind::module_& module);
void bind_guard(nanobind::module_& module);
void bind_pool_keys(nanobind::module_& module);
void bind_pool_hashing(nanobind::module_& module);
void bind_pool_policies(nanobind::module_& module);
void bind_pool_client(nanobind::module_& module);
void bind_pool_server(nanobind::module_& module);
void bind_pool_memory(nanobind::module_& module);
void bind_pool_tier_jobs(nanobind::module_& module);
void bind_pool_tiers(nanobind::module_& module);
void bind_faults(nanobind::module_& module);  // only with RINGCAST_FAULT_POINTS

}  // namespace ringcast::bindings
