// The bytes of any object that has them in one piece, for as long as this lives.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <span>

namespace ringcast::bindings {

class PlainBuffer {
public:
    explicit PlainBuffer(nanobind::handle object, int flags = PyBUF_SIMPLE) {
        if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) throw nanobind::python_error();
    }
    ~PlainBuffer() { PyBuffer_Release(&view_); }
    PlainBuffer(const PlainBuffer&) = delete;
    PlainBuffer& operator=(const PlainBuffer&) = delete;

    std::size_t size() const noexcept { return static_cast<std::size_t>(view_.len); }
    std::span<const std::byte> bytes() const noexcept { return {static_cast<const std::byte*>(view_.buf), size()}; }
    std::byte* data() const noexcept { return static_cast<std::byte*>(view_.buf); }

private:
    Py_buffer view_{};
};

}  // namespace ringcast::bindings
