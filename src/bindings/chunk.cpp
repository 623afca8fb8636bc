#include "chunk.hpp"

#include "modules.hpp"
#include "py_errors.hpp"

namespace nb = nanobind;

namespace ringcast::bindings {

namespace {

struct Chunk {
    std::shared_ptr<Segment> segment;
    std::byte* bytes;
    std::uint64_t length;
};

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
    const Chunk* chunk = nb::inst_ptr<Chunk>(self);
    return PyBuffer_FillInfo(view, self, chunk->bytes, static_cast<Py_ssize_t>(chunk->length), /*readonly=*/0, flags);
}

}  // namespace

nb::object make_chunk_view(std::shared_ptr<Segment> segment, std::byte* bytes, std::uint64_t length) {
    const nb::object chunk = nb::cast(Chunk{std::move(segment), bytes, length});
    return owned(PyMemoryView_FromObject(chunk.ptr()));
}

void bind_chunk(nb::module_& module) {
    PyType_Slot slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(&get_buffer)}, {0, nullptr}};
    nb::class_<Chunk>(module, "Chunk", nb::type_slots(slots), "Room for a message in shared memory, as a buffer.");
}

}  // namespace ringcast::bindings
