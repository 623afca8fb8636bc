// What a pool is, what is in it and who uses it, as a dict: for its server, and for those who look from outside.
#pragma once

#include <nanobind/nanobind.h>

#include "pool/memory.hpp"

namespace ringcast::bindings {

nanobind::dict described(const pool::PoolMemory& memory);

}  // namespace ringcast::bindings
