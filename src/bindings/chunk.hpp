// Memory of a segment as a Python buffer that keeps the segment mapped for as long as a view of it lives.
#pragma once

#include <nanobind/nanobind.h>
#include <memory>

#include "segment.hpp"

namespace ringcast::bindings {

// A writable buffer of `length` bytes at `bytes`, which lie in `segment`.
nanobind::object make_chunk(std::shared_ptr<Segment> segment, std::byte* bytes, std::uint64_t length);
// Is any view of the buffer alive, however it was derived?
bool chunk_has_views(nanobind::handle chunk);

}  // namespace ringcast::bindings
