// Memory of a segment as a Python buffer that keeps the segment mapped for as long as a view of it lives.
#pragma once

#include <memory>
#include <nanobind/nanobind.h>

#include "segment.hpp"

namespace ringcast::bindings {

// A writable memoryview of `length` bytes at `bytes`, which lie in `segment`.
nanobind::object make_chunk_view(std::shared_ptr<Segment> segment, std::byte* bytes, std::uint64_t length);

}  // namespace ringcast::bindings
