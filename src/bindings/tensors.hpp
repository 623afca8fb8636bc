// PyTorch tensors by themselves: their payload is that of an array (arrays.hpp) with the dtype's PyTorch name as its text.
//
// PyTorch is not linked against. A tensor is read and made through DLPack, which tells all that there is to know of one
// in one call. Only tensors that are no more than their elements, dtype and shape travel so; the others are pickled.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <cstdint>
#include <optional>
#include <string_view>

#include "layout.hpp"

namespace ringcast::bindings {

namespace nb = nanobind;

// A tensor that is being sent, held for so long.
class OutgoingTensor {
public:
    // No value: it is no tensor, or one with more to it. Imports nothing.
    static std::optional<OutgoingTensor> of(PyObject* object);

    static constexpr Encoding encoding() noexcept { return Encoding::tensor; }
    static constexpr bool framed() noexcept { return false; }
    std::uint64_t payload_bytes() const noexcept { return data_offset_ + data_bytes_; }
    void write(std::byte* payload) const;
    // Is its memory still the tensor's? PyTorch, too, moves it under whoever else holds it.
    bool is_there() const;

private:
    OutgoingTensor(nb::object object, nb::object capsule, const nb::dlpack::dltensor* tensor, std::string_view dtype,
                   std::uint64_t data_bytes);

    nb::object object_;
    nb::object capsule_;                  // keeps the memory
    const nb::dlpack::dltensor* tensor_;  // the capsule's
    std::string_view dtype_;
    std::uint64_t data_bytes_;
    std::uint64_t data_offset_;
};

// The tensor in `payload`, the `length` bytes at `bytes` that `buffer` exports: there, if they are `writable`, or on a copy
// of them. Imports torch. Raises CorruptError, DecodeError.
nb::object make_tensor(const nb::object& buffer, const std::byte* bytes, std::uint64_t length, bool writable);

}  // namespace ringcast::bindings
