#include "buffers.hpp"

#include "modules.hpp"
#include "py_errors.hpp"

namespace ringcast::bindings {

using namespace nb::literals;

namespace {

struct PrivateView {
    nb::object lease;
    std::byte* bytes;
    std::uint64_t length;
};

int fill(PyObject* self, Py_buffer* view, int flags, const std::byte* bytes, std::uint64_t length, bool readonly) {
    return PyBuffer_FillInfo(view, self, const_cast<std::byte*>(bytes), static_cast<Py_ssize_t>(length),
                             readonly ? 1 : 0, flags);
}

int get_chunk(PyObject* self, Py_buffer* view, int flags) {
    Chunk* chunk = nb::inst_ptr<Chunk>(self);
    const int result = fill(self, view, flags, chunk->payload + chunk->data_offset, chunk->length, chunk->sealed);
    if (result == 0) chunk->exports.fetch_add(1, std::memory_order_relaxed);
    return result;
}
void release_chunk(PyObject* self, Py_buffer*) {
    nb::inst_ptr<Chunk>(self)->exports.fetch_sub(1, std::memory_order_relaxed);
}
int get_lease(PyObject* self, Py_buffer* view, int flags) {
    const Lease* lease = nb::inst_ptr<Lease>(self);
    return fill(self, view, flags, lease->bytes(), lease->length(), true);
}
int get_private(PyObject* self, Py_buffer* view, int flags) {
    const PrivateView* buffer = nb::inst_ptr<PrivateView>(self);
    return fill(self, view, flags, buffer->bytes, buffer->length, false);
}

// `buffer` is a memoryview of a Lease: a writable one of the same bytes, or None if there can be none.
nb::object private_view(nb::handle buffer) {
    if (!PyMemoryView_Check(buffer.ptr())) return nb::none();
    const Py_buffer* view = PyMemoryView_GET_BUFFER(buffer.ptr());
    const nb::handle base(PyMemoryView_GET_BASE(buffer.ptr()));
    std::byte* bytes = base.is_valid() ? private_bytes(base) : nullptr;
    if (bytes == nullptr) return nb::none();
    const auto offset =
        static_cast<std::uint64_t>(static_cast<const std::byte*>(view->buf) - nb::inst_ptr<Lease>(base)->bytes());
    const nb::object exporter =
        nb::cast(new PrivateView{nb::borrow(base), bytes + offset, static_cast<std::uint64_t>(view->len)},
                 nb::rv_policy::take_ownership);
    return owned(PyMemoryView_FromObject(exporter.ptr()));
}

}  // namespace

Chunk::Chunk(std::shared_ptr<Segment> of, const Sender::Room& room, std::uint64_t offset)
    : segment(std::move(of)),
      payload(room.bytes),
      data_offset(offset),
      length(room.length - offset),
      row(room.place.row) {
    if (room.in_block) return;
    staging = std::make_unique<std::byte[]>(room.length);
    payload = staging.get();
}

Chunk::~Chunk() {
    if (loan != 0 && fork_generation == platform::fork_generation()) Sender::end_loan(*segment, row, loan);
}

nb::object make_lease(Lease lease) { return nb::cast(new Lease(std::move(lease)), nb::rv_policy::take_ownership); }

std::byte* private_bytes(nb::handle buffer) {
    return nb::isinstance<Lease>(buffer) ? nb::inst_ptr<Lease>(buffer)->private_bytes() : nullptr;
}

void bind_buffers(nb::module_& module) {
    PyType_Slot chunk[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(&get_chunk)},
                           {Py_bf_releasebuffer, reinterpret_cast<void*>(&release_chunk)},
                           {0, nullptr}};
    nb::class_<Chunk>(module, "Chunk", nb::type_slots(chunk), "Room for a message in shared memory, as a buffer.");
    PyType_Slot lease[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(&get_lease)}, {0, nullptr}};
    nb::class_<Lease>(module, "Lease", nb::type_slots(lease),
                      "A message's bytes in shared memory, as a read-only buffer; given back with its last view.");
    PyType_Slot view[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(&get_private)}, {0, nullptr}};
    nb::class_<PrivateView>(module, "PrivateView", nb::type_slots(view),
                            "A lease's bytes in a mapping of this process alone, as a writable buffer.");
    module.def("private_view", &private_view, "buffer"_a);
}

}  // namespace ringcast::bindings
