// A ringcast.codec.Codec as the native calls use it: objects to frames and messages to objects, with the errors' types.
//
// Plain pickling calls the C functions of Python's pickle directly; a small object then costs no Python frame at either
// end. Everything else, and everything that fails on that way, goes through the Codec's own methods.
#pragma once

#include <nanobind/nanobind.h>

#include "frames.hpp"

namespace ringcast::bindings {

// What has become of the tries to rebuild one message.
struct Tries {
    std::uint64_t number;        // the message's, in its queue
    bool lacked_memory = false;  // once; the second time is the message's own doing
    bool refused = false;        // it can never be rebuilt, and is consumed
};

class Codec {
public:
    explicit Codec(const nb::object& codec);

    // When is what is received a copy?
    enum class Copies { when_needed, always, never };
    Copies copies() const noexcept { return copies_; }
    // May received arrays be changed, and do tensors lie where they were received?
    bool writable() const noexcept { return writable_; }
    // Can what `decode` makes of such a message lie on the buffer?
    bool shows_buffer(Encoding encoding, bool framed) const noexcept {
        if (encoding == Encoding::tensor) return writable_;
        return framed || encoding != Encoding::pickle;
    }

    // Do NumPy arrays and PyTorch tensors by themselves travel natively?
    bool arrays() const noexcept { return arrays_; }
    Frames encode(PyObject* object) const;  // raises EncodeError, from what the object's encoding raised
    // `buffer` exports the `length` bytes at `bytes`, and nothing else keeps them. Not for raw messages. Raises
    // DecodeError, from what the object's rebuilding raised; CorruptError; or what is no doing of the message's.
    nb::object decode(const nb::object& buffer, const std::byte* bytes, std::uint64_t length, Encoding encoding,
                      bool framed, Tries& tries) const;

private:
    nb::object decoded(nb::object& stream, const std::byte* bytes, std::uint64_t length, Encoding encoding,
                       bool framed) const;
    nb::object encoded(PyObject* object) const;

    nb::object encode_;
    nb::object decode_;
    nb::object dumps_;  // None: not this way
    nb::object loads_;
    Encoding encoding_;
    bool arrays_;
    Copies copies_;
    bool writable_;
};

}  // namespace ringcast::bindings
