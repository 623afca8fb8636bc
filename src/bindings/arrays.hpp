// NumPy arrays by themselves: their elements go from the array into shared memory in one copy, without a pickle stream.
//
// The payload is a header, padded to kDataAlignment, then the elements in C or Fortran order:
//
//     u32 data_offset | u8 ndim | u8 order, 'C' or 'F' | u16 dtype_bytes | i64 shape[ndim] | dtype, as text
//
// NumPy is not linked against: an array is read through the buffer protocol and made by calling numpy.ndarray.
#pragma once

#include <nanobind/nanobind.h>
#include <cstdint>
#include <optional>

#include "layout.hpp"

namespace ringcast::bindings {

namespace nb = nanobind;

inline constexpr std::uint64_t kDataAlignment = 64;

// Where the elements begin.
std::uint64_t array_data_offset(std::size_t ndim, std::size_t dtype_bytes);
void write_array_header(std::byte* payload, char order, const Py_ssize_t* shape, std::size_t ndim, const char* dtype,
                        std::size_t dtype_bytes);

// An array that is being sent, held for so long. What cannot travel this way has no value: its dtype has no text.
class OutgoingArray {
public:
    static std::optional<OutgoingArray> of(PyObject* object);
    OutgoingArray(OutgoingArray&& other) noexcept;
    ~OutgoingArray();

    static constexpr Encoding encoding() noexcept { return Encoding::array; }
    static constexpr bool framed() noexcept { return false; }
    std::uint64_t payload_bytes() const noexcept { return data_offset_ + static_cast<std::uint64_t>(view_.len); }
    void write(std::byte* payload) const;

private:
    OutgoingArray(const Py_buffer& view, char order, nb::object dtype_text);

    Py_buffer view_;
    char order_;
    bool owns_ = true;
    nb::object dtype_text_;
    const char* dtype_;
    std::size_t dtype_bytes_;
    std::uint64_t data_offset_;
};

// The array in `payload`, a read-only view of `buffer`, which is of `length` bytes at `bytes`. Raises CorruptError.
nb::object make_array(const nb::object& buffer, const std::byte* bytes, std::uint64_t length);

}  // namespace ringcast::bindings
