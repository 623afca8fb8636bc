#include "frames.hpp"

#include <algorithm>
#include <cstring>

#include "py_errors.hpp"
#include "unlocked.hpp"

namespace ringcast::bindings {

namespace {
std::uint64_t table_bytes(std::uint64_t frames) { return 8 + frames * 8; }
}  // namespace

void copy_bytes(void* to, const void* from, std::uint64_t bytes) {
    if (bytes < kUnlockedCopyBytes) {
        platform::Native::copy(to, from, bytes);
        return;
    }
    const Unlocked unlocked;
    platform::Native::copy(to, from, bytes);
}

bool lies_in_its_owner(const Py_buffer& view) {
    PyObject* owner = view.obj;
    if (owner != nullptr && PyMemoryView_Check(owner)) owner = PyMemoryView_GET_BUFFER(owner)->obj;
    Py_buffer now;
    if (owner == nullptr) return true;
    if (PyObject_GetBuffer(owner, &now, PyBUF_ANY_CONTIGUOUS) != 0) {
        PyErr_Clear();  // it is not contiguous as a whole: what was sent is a part of it, or a copy
        return true;
    }
    const auto begin = reinterpret_cast<std::uintptr_t>(now.buf);
    const auto at = reinterpret_cast<std::uintptr_t>(view.buf);
    const bool inside =
        at >= begin && at + static_cast<std::size_t>(view.len) <= begin + static_cast<std::size_t>(now.len);
    PyBuffer_Release(&now);
    return inside;
}

Frames::Frames(nb::object encoded, Encoding encoding) : encoded_(std::move(encoded)), encoding_(encoding) {
    const bool single = PyBytes_CheckExact(encoded_.ptr()) != 0;
    if (!single && !PyList_CheckExact(encoded_.ptr()))
        raise("EncodeError", "a codec's encode must give bytes or a list of buffers");
    const Py_ssize_t count = single ? 1 : PyList_GET_SIZE(encoded_.ptr());
    views_.reserve(static_cast<std::size_t>(count));
    if (count > 1) payload_bytes_ = table_bytes(static_cast<std::uint64_t>(count));
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject* buffer = single ? encoded_.ptr() : PyList_GET_ITEM(encoded_.ptr(), i);
        Py_buffer view;
        // Of an array in Fortran order, too, only the bytes count here.
        if (PyObject_GetBuffer(buffer, &view, PyBUF_ANY_CONTIGUOUS) != 0) {
            for (Py_buffer& held : views_) PyBuffer_Release(&held);
            throw nb::python_error();
        }
        views_.push_back(view);
        const auto bytes = static_cast<std::uint64_t>(view.len);
        if (count > 1) payload_bytes_ = round_up(payload_bytes_, frame_alignment(bytes));
        payload_bytes_ += bytes;
    }
}

Frames::~Frames() {
    for (Py_buffer& view : views_) PyBuffer_Release(&view);
}

void Frames::write(std::byte* payload) const {
    if (!framed()) return copy_bytes(payload, views_[0].buf, static_cast<std::uint64_t>(views_[0].len));
    const std::uint64_t count = views_.size();
    std::memcpy(payload, &count, 8);
    std::uint64_t offset = table_bytes(count);
    for (std::size_t i = 0; i < count; ++i) {
        const auto bytes = static_cast<std::uint64_t>(views_[i].len);
        std::memcpy(payload + 8 + i * 8, &bytes, 8);
        offset = round_up(offset, frame_alignment(bytes));
        copy_bytes(payload + offset, views_[i].buf, bytes);
        offset += bytes;
    }
}

bool Frames::is_there() const {
    if (!std::all_of(views_.begin(), views_.end(), lies_in_its_owner)) return false;
    if (!framed() || encoding_ != Encoding::pickle) return true;
    return nb::cast<bool>(nb::module_::import_("ringcast.codec.tensors").attr("are_there")(encoded_));
}

// Never from the bytes: the interpreter has objects of one byte and of none that all share.
OwnBuffer make_own_buffer(std::uint64_t length, bool writable) {
    const auto size = static_cast<Py_ssize_t>(length);
    nb::object buffer =
        owned(writable ? PyByteArray_FromStringAndSize(nullptr, size) : PyBytes_FromStringAndSize(nullptr, size));
    char* bytes = writable ? PyByteArray_AS_STRING(buffer.ptr()) : PyBytes_AS_STRING(buffer.ptr());
    return OwnBuffer{std::move(buffer), reinterpret_cast<std::byte*>(bytes)};
}

nb::list split_frames(const nb::object& buffer, const std::byte* bytes, std::uint64_t length, bool writable) {
    std::uint64_t count = 0;
    if (length >= 8) std::memcpy(&count, bytes, 8);
    if (count == 0 || count > (length - 8) / 8)
        raise("CorruptError",
              "a message of " + std::to_string(length) + " bytes has a table of " + std::to_string(count) + " frames");
    const nb::object view = owned(PyMemoryView_FromObject(buffer.ptr()));
    nb::list frames;
    std::uint64_t offset = table_bytes(count);
    for (std::uint64_t i = 0; i < count; ++i) {
        std::uint64_t size = 0;
        std::memcpy(&size, bytes + 8 + i * 8, 8);
        offset = round_up(offset, frame_alignment(size));
        if (offset > length || size > length - offset)
            raise("CorruptError", "a message of " + std::to_string(length) + " bytes has a frame " + std::to_string(i) +
                                      " of " + std::to_string(size) + " bytes at " + std::to_string(offset));
        if (size < kLeasedFrameBytes && length >= kLeasedFrameBytes) {
            OwnBuffer own = make_own_buffer(size, writable);
            std::memcpy(own.bytes, bytes + offset, size);
            frames.append(std::move(own.buffer));
        } else
            frames.append(owned(PySequence_GetSlice(view.ptr(), static_cast<Py_ssize_t>(offset),
                                                    static_cast<Py_ssize_t>(offset + size))));
        offset += size;
    }
    return frames;
}

}  // namespace ringcast::bindings
