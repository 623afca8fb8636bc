#include "chunk.hpp"

#include <atomic>

#include "modules.hpp"
#include "py_errors.hpp"

namespace nb = nanobind;

namespace ringcast::bindings {

namespace {

struct Chunk {
    std::shared_ptr<Segment> segment;
    std::byte* bytes;
    std::uint64_t length;
    std::atomic<std::uint32_t> exports{0};
};

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
    Chunk* chunk = nb::inst_ptr<Chunk>(self);
    const int result =
        PyBuffer_FillInfo(view, self, chunk->bytes, static_cast<Py_ssize_t>(chunk->length), /*readonly=*/0, flags);
    if (result == 0) chunk->exports.fetch_add(1, std::memory_order_relaxed);
    return result;
}

void release_buffer(PyObject* self, Py_buffer*) {
    nb::inst_ptr<Chunk>(self)->exports.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace

nb::object make_chunk(std::shared_ptr<Segment> segment, std::byte* bytes, std::uint64_t length) {
    return nb::cast(new Chunk{std::move(segment), bytes, length}, nb::rv_policy::take_ownership);
}

bool chunk_has_views(nb::handle chunk) {
    return nb::inst_ptr<Chunk>(chunk)->exports.load(std::memory_order_relaxed) != 0;
}

void bind_chunk(nb::module_& module) {
    PyType_Slot slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(&get_buffer)},
                           {Py_bf_releasebuffer, reinterpret_cast<void*>(&release_buffer)},
                           {0, nullptr}};
    nb::class_<Chunk>(module, "Chunk", nb::type_slots(slots), "Room for a message in shared memory, as a buffer.");
}

}  // namespace ringcast::bindings
