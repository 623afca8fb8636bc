// The data part as readers' views see it: mapped copy-on-write, physically writable, so that nothing that is done to a
// view in place can crash, or be seen by anybody else.
//
// A page that was written there shows this process's bytes from then on, so it must be dropped before a view of a later
// message lies on it. Only the kernel knows which pages were written, and it takes half as long to say so as to copy
// them. So pages whose view is gone are only remembered, and are asked about when another view is to lie on them,
// together with their neighbours of which the same is true. What is likely to have been written is dropped at once.
//
// The first write to a page is a fault. So where this process has had none since before a view was opened, and the
// system counts them, nothing is to be asked about: in the receiving loops that matter most, that is nearly always so.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "layout.hpp"

namespace ringcast {

class PrivateData {
public:
    // `mapping` is a private mapping of the whole segment, whose data part of `data_bytes` begins at `data_offset`.
    PrivateData(std::byte* mapping, std::uint64_t data_offset, std::uint64_t data_bytes);
    ~PrivateData();
    PrivateData(const PrivateData&) = delete;
    PrivateData& operator=(const PrivateData&) = delete;

    // Where message `position`, in a block with pages of its own, can be viewed; null if it cannot: then it is to be
    // copied. One caller at a time; each success is followed by `close`, or by nothing being written.
    std::byte* open(std::uint64_t offset, std::uint64_t bytes, std::uint64_t position) noexcept;
    // The view is gone, which was opened after `faults()` had been `faults`. Before the mark that lets the block carry another
    // message. From any thread.
    void close(std::uint64_t offset, std::uint64_t bytes, bool writable, std::uint64_t faults) noexcept;
    // How many page faults this process has had, when somebody looked last.
    std::uint64_t faults() const noexcept { return faults_.load(std::memory_order_relaxed); }

private:
    using Word = std::atomic<std::uint64_t>;
    struct Free {
        void operator()(Word* words) const noexcept;
    };
    static constexpr std::uint64_t kNeighbours = 256;                       // pages asked about before and behind
    static constexpr std::uint64_t kMostUnasked = std::uint64_t{64} << 20;  // bytes that views left behind

    bool nothing_was_written_since(std::uint64_t faults) noexcept;
    bool is_left(std::uint64_t page) const noexcept {
        return (left_[page / 64].load(std::memory_order_relaxed) >> page % 64 & 1) != 0;
    }
    bool any_left(std::uint64_t first, std::uint64_t behind) const noexcept;
    bool forget(std::uint64_t first, std::uint64_t behind) noexcept;
    bool forget_all() noexcept;
    bool shows_the_file(std::uint64_t position) const noexcept;

    std::byte* mapping_;
    std::uint64_t data_offset_;
    std::uint64_t data_bytes_;
    std::uint64_t page_;
    std::uint64_t pages_;
    // A bit for each page whose view is gone and which has not been asked about. relaxed: who opens a view of a block
    // that was closed has learnt of it by [mark] and [publish].
    std::unique_ptr<Word[], Free> left_;
    std::atomic<std::uint64_t> unasked_{0};
    std::atomic<std::uint64_t> faults_{0};
    std::atomic<bool> usable_{true};  // false once a page could not be dropped
};

}  // namespace ringcast
