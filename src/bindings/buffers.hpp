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
#include "loan.hpp"
#include "sender.hpp"

namespace ringcast::bindings {

namespace nb = nanobind;

struct Chunk {
    // `staged`: the message is made in memory of its own, and copied into the room when it is published.
    Chunk(std::shared_ptr<Segment> of, const Sender::Room& room, std::uint64_t data_offset, bool staged,
          std::shared_ptr<Loan> loan);

    std::shared_ptr<Segment> segment;
    std::unique_ptr<std::byte[]> staging;
    std::byte* payload;
    std::uint64_t data_offset;        // what is before it is the library's own
    std::uint64_t length;             // of what the user sees
    std::shared_ptr<Loan> loan;       // the block is kept until this is gone
    std::atomic<bool> sealed{false};  // its time to be written is over
    std::atomic<std::uint32_t> exports{0};
};

// A buffer over the bytes of a block, which holds nothing yet: made before the message is taken, so that there is nothing
// left that can fail when it is.
nb::object make_lease_buffer(const std::byte* bytes, std::uint64_t length, bool writable);
// Gives the lease to its buffer, once.
void hold(nb::handle buffer, Lease lease) noexcept;

void bind_buffers(nb::module_& module);

}  // namespace ringcast::bindings
