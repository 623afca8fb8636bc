// Messages to and from the bytes of a slot or block.
//
// One frame: the payload is the frame. More: a table of their lengths, 64 bits each, then the frames, each aligned to
// kFrameAlignment from the payload's start. The core checks that the payload lies inside its segment; the table is
// checked here.
#pragma once

#include <nanobind/nanobind.h>
#include <cstdint>
#include <vector>

#include "receiver.hpp"
#include "sender.hpp"

namespace ringcast::bindings {

namespace nb = nanobind;

// Copies of this size and more are made without the interpreter's lock.
inline constexpr std::uint64_t kUnlockedCopyBytes = 64 << 10;

void copy_bytes(void* to, const void* from, std::uint64_t bytes);

// The encoded form of an object, held for as long as it is being sent.
class Frames {
public:
    // `encoded` is what the codec gave: bytes, or a list of contiguous buffers, the stream first.
    explicit Frames(nb::object encoded);
    ~Frames();
    Frames(const Frames&) = delete;
    Frames& operator=(const Frames&) = delete;

    std::uint64_t payload_bytes() const noexcept { return payload_bytes_; }
    std::uint32_t count() const noexcept { return static_cast<std::uint32_t>(views_.size()); }
    void write(std::byte* payload) const;

private:
    nb::object encoded_;
    std::vector<Py_buffer> views_;
    std::uint64_t payload_bytes_ = 0;
};

// A private copy of a message's payload, as bytes.
nb::object copy_payload(const Receiver::Message& message);
// The object that `payload` stands for. Raises CorruptError if its frame table is impossible.
nb::object decode_payload(const nb::object& decode, nb::object payload, Encoding encoding, std::uint32_t n_frames);

}  // namespace ringcast::bindings
