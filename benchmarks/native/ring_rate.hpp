// The floor under message rates: the project's own ring with no Python at either end. Implemented in ring_rate.cpp,
// which the build leaves out where the core is not there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace floor_program {

// Messages a second that the slowest of `reader_cpus.size()` readers received: `messages` of `message_bytes`, through a
// ring of `depth` slots, from the first message received to the last.
double ring_rate(int writer_cpu, const std::vector<int>& reader_cpus, std::uint64_t messages, std::size_t message_bytes,
                 std::size_t depth);

}  // namespace floor_program
