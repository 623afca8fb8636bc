// Messages to and from the bytes of a slot or block.
//
// Without buffers, the payload is the stream. With them it is framed: the number of frames, their lengths, 64 bits each,
// then the frames, the stream first, each aligned to frame_alignment from the payload's start. The core checks that the
// payload lies inside its segment; the table is checked here.
#pragma once

#include <nanobind/nanobind.h>
#include <cstdint>
#include <vector>

#include "geometry.hpp"

namespace ringcast::bindings {

namespace nb = nanobind;

// Copies of this size and more are made without the interpreter's lock.
inline constexpr std::uint64_t kUnlockedCopyBytes = 64 << 10;

void copy_bytes(void* to, const void* from, std::uint64_t bytes);

// Does the memory of `view` still lie in what exports it? For who has waited since: NumPy moves an array's elements under
// whoever else holds them if it is told to.
bool lies_in_its_owner(const Py_buffer& view);

// Frames of this size and more are read where they lie; smaller ones are copied out, so that a small array that is kept
// does not keep a large block.
inline constexpr std::uint64_t kLeasedFrameBytes = 4096;
constexpr std::uint64_t frame_alignment(std::uint64_t bytes) { return bytes >= kLeasedFrameBytes ? 64 : 16; }

// The encoded form of an object, held for as long as it is being sent.
class Frames {
public:
    // `encoded` is bytes, or a list of contiguous buffers, the stream first.
    Frames(nb::object encoded, Encoding encoding);
    ~Frames();
    Frames(const Frames&) = delete;
    Frames& operator=(const Frames&) = delete;

    Encoding encoding() const noexcept { return encoding_; }
    bool framed() const noexcept { return views_.size() > 1; }
    std::uint64_t payload_bytes() const noexcept { return payload_bytes_; }
    void write(std::byte* payload) const;
    // Is all the memory still that of the object's parts?
    bool is_there() const;

private:
    nb::object encoded_;
    Encoding encoding_;
    std::vector<Py_buffer> views_;
    std::uint64_t payload_bytes_ = 0;
};

// `length` bytes of this process alone at `bytes`, as a buffer: bytearray if they may be changed, else bytes.
struct OwnBuffer {
    nb::object buffer;
    std::byte* bytes;
};
OwnBuffer make_own_buffer(std::uint64_t length, bool writable);

// The frames in a framed payload of `length` bytes at `bytes`, which `buffer` exports, writable or not: memoryviews of it,
// but copies of what is small in a payload that is not. Raises CorruptError if the table is impossible.
nb::list split_frames(const nb::object& buffer, const std::byte* bytes, std::uint64_t length, bool writable);

}  // namespace ringcast::bindings
