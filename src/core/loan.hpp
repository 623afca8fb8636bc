// A loan: views of the writer's own process on a block, which may live for longer than the chunk that they were made in.
//
// Shared by the open chunk and its buffer. If the chunk ended while there were views, the block is kept until the buffer,
// and with it the last of them, is gone; that takes no turn, and may happen in a finalizer of any thread.
#pragma once

#include <cstdint>
#include <memory>

#include "marks.hpp"
#include "parking.hpp"
#include "segment.hpp"

namespace ringcast {

class Loan {
public:
    Loan(std::shared_ptr<Segment> segment, std::uint32_t row, std::uint64_t number)
        : segment_(std::move(segment)), row_(row), number_(number) {}
    ~Loan() {
        if (!kept_ || fork_generation_ != platform::fork_generation()) return;
        const auto& ring = segment_->ring();
        mark_done(ring, ring.n_seats, row_, number_);
        platform::Native::fence_seq_cst();  // [signal] for the mark
        unpark<platform::Native>(ring.control->writer_parked);
    }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;

    std::uint64_t number() const noexcept { return number_; }
    void keep() noexcept { kept_ = true; }  // with the writer's turn

private:
    std::shared_ptr<Segment> segment_;
    std::uint32_t row_;
    std::uint64_t number_;
    std::uint32_t fork_generation_ = platform::fork_generation();
    bool kept_ = false;
};

}  // namespace ringcast
