// The floor under a link's rates. Implemented in pump.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace floor_program {

// Messages a second from a writer through a ring of `depth` places, TCP over loopback and a second such ring to a reader.
double pump(int writer_cpu, int reader_cpu, std::size_t bytes, std::size_t depth, double seconds);

// 1e9 bytes a second through TCP over loopback, sent and received `bytes` at a time, no ring.
double tcp_rate(int sender_cpu, int receiver_cpu, std::size_t bytes, double seconds);

}  // namespace floor_program
