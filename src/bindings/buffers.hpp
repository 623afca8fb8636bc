// Memory of a segment as Python buffers, which keep it mapped and their block in place for as long as a view lives.
//
//     Chunk        the writer's: room for a message that is being made in place
//     Lease        a reader's: the bytes of a message in a block
#pragma once

#include <nanobind/nanobind.h>
#include <atomic>
#include <cstdint>
#include <memory>

#include "lease.hpp"
#include "sender.hpp"

namespace ringcast::bindings {

namespace nb = nanobind;

struct Chunk {
    Chunk(std::shared_ptr<Segment> of, const Sender::Room& room, std::uint64_t data_offset);
    ~Chunk();
    Chunk(const Chunk&) = delete;
    Chunk& operator=(const Chunk&) = delete;

    std::shared_ptr<Segment> segment;
    std::unique_ptr<std::byte[]> staging;  // a message for a slot is made here: a view of the slot could outlive it
    std::byte* payload;
    std::uint64_t data_offset;  // what is before it is the library's own
    std::uint64_t length;       // of what the user sees
    std::uint32_t row;
    std::uint64_t loan = 0;  // not 0: the block is kept until this is gone
    bool sealed = false;     // its time to be written is over
    std::uint32_t fork_generation = platform::fork_generation();
    std::atomic<std::uint32_t> exports{0};
};

// Does anything but the one reference of the caller use the chunk? Views do so as exports, but NumPy's constructor lets go
// of the export and keeps a reference.
inline bool has_views(nb::handle chunk) {
    return nb::inst_ptr<Chunk>(chunk)->exports.load(std::memory_order_relaxed) != 0 || Py_REFCNT(chunk.ptr()) > 1;
}

// A buffer over the bytes of a block, which holds nothing yet: made before the message is taken, so that there is nothing
// left that can fail when it is.
nb::object make_lease_buffer(const std::byte* bytes, std::uint64_t length, bool writable);
// Gives the lease to its buffer, once.
void hold(nb::handle buffer, Lease lease) noexcept;

void bind_buffers(nb::module_& module);

}  // namespace ringcast::bindings
