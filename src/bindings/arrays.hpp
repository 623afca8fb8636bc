// NumPy arrays by themselves: their elements go from the array into shared memory in one copy, without a pickle stream.
//
// The payload, which tensors have as well, is a header, padded to kDataAlignment, then the elements in C or Fortran order:
//
//     u32 data_offset | u8 ndim | u8 order, 'C' or 'F' | u16 dtype_bytes | i64 shape[ndim] | dtype, as text
//
// NumPy is not linked against: an array is read through the buffer protocol and made by calling numpy.ndarray.
#pragma once

#include <nanobind/nanobind.h>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

#include "frames.hpp"
#include "layout.hpp"

namespace ringcast::bindings {

namespace nb = nanobind;

inline constexpr std::uint64_t kDataAlignment = 64;
inline constexpr std::uint64_t kFixedHeaderBytes = 8;
inline constexpr std::size_t kMostDimensions = 64;

// Where the elements begin.
std::uint64_t array_data_offset(std::size_t ndim, std::size_t dtype_bytes);

// `shape` is of 64-bit integers; the platforms disagree on their type.
template <class Extent>
void write_array_header(std::byte* payload, char order, const Extent* shape, std::size_t ndim, std::string_view dtype) {
    static_assert(sizeof(Extent) == 8);
    const auto data_offset = static_cast<std::uint32_t>(array_data_offset(ndim, dtype.size()));
    const auto dtype_bytes = static_cast<std::uint16_t>(dtype.size());
    std::memcpy(payload, &data_offset, 4);
    payload[4] = static_cast<std::byte>(ndim);
    payload[5] = static_cast<std::byte>(order);
    std::memcpy(payload + 6, &dtype_bytes, 2);
    if (ndim != 0) std::memcpy(payload + kFixedHeaderBytes, shape, 8 * ndim);
    std::memcpy(payload + kFixedHeaderBytes + 8 * ndim, dtype.data(), dtype.size());
}

// A received header: whole, and of a possible form. What its fields say of the elements is not checked.
struct ArrayHeader {
    std::uint64_t data_offset;
    std::size_t ndim;
    char order;
    const std::byte* shape;
    std::string_view dtype;

    std::int64_t extent(std::size_t dimension) const noexcept {
        std::int64_t extent = 0;
        std::memcpy(&extent, shape + 8 * dimension, 8);
        return extent;
    }
};
// The header of the `length` bytes at `bytes`. Raises CorruptError.
ArrayHeader read_array_header(const std::byte* bytes, std::uint64_t length);
[[noreturn]] void raise_corrupt_array(const char* what, std::uint64_t length);

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
    // Is its memory still the array's?
    bool is_there() const { return lies_in_its_owner(view_); }

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
