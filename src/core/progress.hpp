// How far long work has come, told in between by the thread that waits for it.
#pragma once

#include <cstdint>
#include <functional>

namespace ringcast {

// Bytes. It may throw: then the work is given up, and what it has made so far is undone.
using Progress = std::function<void(std::uint64_t done, std::uint64_t total)>;

}  // namespace ringcast
