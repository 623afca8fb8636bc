#include "buffers.hpp"

#include <memory>
#include <optional>

#include "modules.hpp"
#include "py_errors.hpp"

namespace ringcast::bindings {

using namespace nb::literals;

namespace {

// A plain type: its objects are made for each large message.
struct LeaseBuffer {
    PyObject_HEAD std::optional<Lease> lease;
    const std::byte* bytes;
    std::uint64_t length;
    bool writable;
};
PyTypeObject* lease_type = nullptr;  // set at import, never changed

int fill(PyObject* self, Py_buffer* view, int flags, const std::byte* bytes, std::uint64_t length, bool readonly) {
    return PyBuffer_FillInfo(view, self, const_cast<std::byte*>(bytes), static_cast<Py_ssize_t>(length),
                             readonly ? 1 : 0, flags);
}

int get_chunk(PyObject* self, Py_buffer* view, int flags) {
    if (!nb::inst_ready(self)) {  // Chunk.__new__ makes such
        PyErr_SetString(PyExc_BufferError, "there is no memory to this Chunk");
        view->obj = nullptr;
        return -1;
    }
    Chunk* chunk = nb::inst_ptr<Chunk>(self);
    const int result = fill(self, view, flags, chunk->payload + chunk->data_offset, chunk->length, chunk->sealed);
    if (result == 0) chunk->exports.fetch_add(1, std::memory_order_relaxed);
    return result;
}
void release_chunk(PyObject* self, Py_buffer*) {
    nb::inst_ptr<Chunk>(self)->exports.fetch_sub(1, std::memory_order_relaxed);
}
int get_lease(PyObject* self, Py_buffer* view, int flags) {
    const auto* buffer = reinterpret_cast<const LeaseBuffer*>(self);
    return fill(self, view, flags, buffer->bytes, buffer->length, !buffer->writable);
}
void drop_lease(PyObject* self) {
    PyTypeObject* type = Py_TYPE(self);
    std::destroy_at(&reinterpret_cast<LeaseBuffer*>(self)->lease);
    type->tp_free(self);
    Py_DECREF(type);
}

PyType_Slot lease_slots[] = {
    {Py_bf_getbuffer, reinterpret_cast<void*>(&get_lease)},
    {Py_tp_dealloc, reinterpret_cast<void*>(&drop_lease)},
    {Py_tp_doc, const_cast<char*>("A message's bytes in shared memory, as a buffer; given back with its last view.")},
    {0, nullptr}};
PyType_Spec lease_spec = {"ringcast._core.Lease", sizeof(LeaseBuffer), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, lease_slots};

}  // namespace

Chunk::Chunk(std::shared_ptr<Segment> of, const Sender::Room& room, std::uint64_t offset, bool staged,
             std::shared_ptr<Loan> of_block)
    : segment(std::move(of)),
      payload(room.bytes),
      data_offset(offset),
      length(room.length - offset),
      loan(std::move(of_block)) {
    if (!staged) return;
    staging = std::make_unique_for_overwrite<std::byte[]>(room.length);
    payload = staging.get();
}

nb::object make_lease_buffer(const std::byte* bytes, std::uint64_t length, bool writable) {
    const nb::object made = owned(lease_type->tp_alloc(lease_type, 0));
    auto* buffer = reinterpret_cast<LeaseBuffer*>(made.ptr());
    std::construct_at(&buffer->lease);
    buffer->bytes = bytes;
    buffer->length = length;
    buffer->writable = writable;
    return made;
}

void hold(nb::handle buffer, Lease lease) noexcept {
    reinterpret_cast<LeaseBuffer*>(buffer.ptr())->lease.emplace(std::move(lease));
}

void bind_buffers(nb::module_& module) {
    PyType_Slot chunk[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(&get_chunk)},
                           {Py_bf_releasebuffer, reinterpret_cast<void*>(&release_chunk)},
                           {0, nullptr}};
    nb::class_<Chunk>(module, "Chunk", nb::type_slots(chunk), "Room for a message in shared memory, as a buffer.");
    const nb::object lease = owned(PyType_FromSpec(&lease_spec));
    module.attr("Lease") = lease;
    lease_type = reinterpret_cast<PyTypeObject*>(lease.inc_ref().ptr());
}

}  // namespace ringcast::bindings
