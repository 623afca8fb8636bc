#include "frames.hpp"

#include <cstring>

#include "py_errors.hpp"

namespace ringcast::bindings {

namespace {
std::uint64_t table_bytes(std::size_t frames) { return frames > 1 ? round_up(frames * 8, kFrameAlignment) : 0; }
}  // namespace

void copy_bytes(void* to, const void* from, std::uint64_t bytes) {
    if (bytes < kUnlockedCopyBytes) {
        platform::Native::copy(to, from, bytes);
        return;
    }
    nb::gil_scoped_release release_gil;
    platform::Native::copy(to, from, bytes);
}

Frames::Frames(nb::object encoded) : encoded_(std::move(encoded)) {
    const bool single = PyBytes_CheckExact(encoded_.ptr()) != 0;
    const Py_ssize_t count = single ? 1 : PyList_GET_SIZE(encoded_.ptr());
    views_.reserve(static_cast<std::size_t>(count));
    payload_bytes_ = table_bytes(static_cast<std::size_t>(count));
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject* buffer = single ? encoded_.ptr() : PyList_GET_ITEM(encoded_.ptr(), i);
        Py_buffer view;
        if (PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE) != 0) {
            for (Py_buffer& held : views_) PyBuffer_Release(&held);
            throw nb::python_error();
        }
        views_.push_back(view);
        payload_bytes_ =
            round_up(payload_bytes_, count > 1 ? kFrameAlignment : 1) + static_cast<std::uint64_t>(view.len);
    }
}

Frames::~Frames() {
    for (Py_buffer& view : views_) PyBuffer_Release(&view);
}

void Frames::write(std::byte* payload) const {
    std::uint64_t offset = table_bytes(views_.size());
    for (std::size_t i = 0; i < views_.size(); ++i) {
        const auto bytes = static_cast<std::uint64_t>(views_[i].len);
        if (views_.size() > 1) {
            std::memcpy(payload + i * 8, &bytes, 8);
            offset = round_up(offset, kFrameAlignment);
        }
        copy_bytes(payload + offset, views_[i].buf, bytes);
        offset += bytes;
    }
}

nb::object copy_payload(const Receiver::Message& message) {
    nb::object payload = owned(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(message.length)));
    copy_bytes(PyBytes_AS_STRING(payload.ptr()), message.bytes, message.length);
    return payload;
}

nb::object decode_payload(const nb::object& decode, nb::object payload, Encoding encoding, std::uint32_t n_frames) {
    if (encoding == Encoding::raw) return payload;
    if (n_frames == 1) return decode(payload, nb::tuple());

    const auto total = static_cast<std::uint64_t>(PyBytes_GET_SIZE(payload.ptr()));
    const char* bytes = PyBytes_AS_STRING(payload.ptr());
    const nb::object view = owned(PyMemoryView_FromObject(payload.ptr()));
    nb::object stream;
    nb::list buffers;
    std::uint64_t offset = table_bytes(n_frames);
    for (std::uint32_t i = 0; i < n_frames; ++i) {
        std::uint64_t length = 0;
        std::memcpy(&length, bytes + std::size_t{i} * 8, 8);  // the core made sure that the table is there
        offset = round_up(offset, kFrameAlignment);
        if (offset > total || length > total - offset)
            raise("CorruptError", "a message of " + std::to_string(total) + " bytes has a frame " + std::to_string(i) +
                                      " of " + std::to_string(length) + " bytes at " + std::to_string(offset));
        nb::object frame = owned(
            PySequence_GetSlice(view.ptr(), static_cast<Py_ssize_t>(offset), static_cast<Py_ssize_t>(offset + length)));
        if (i == 0)
            stream = std::move(frame);
        else
            buffers.append(frame);
        offset += length;
    }
    return decode(stream, buffers);
}

}  // namespace ringcast::bindings
