// A chunk of a lease, as an array or a tensor over the pool's memory.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <memory>

#include "modules.hpp"
#include "pool_client.hpp"
#include "py_errors.hpp"
#include "unlocked.hpp"

namespace ringcast::bindings {

using namespace nb::literals;

namespace {

// The bytes of a chunk as a buffer. It stays pinned for as long as this or any view of it lives.
struct ChunkBuffer {
    PyObject_HEAD std::shared_ptr<pool::Holding> held;
    std::uint32_t index;
    pool::Mapping mapping;  // of a private view
    std::byte* bytes;
    std::uint64_t length;
    bool writable;
};
PyTypeObject* buffer_type = nullptr;  // set at import, never changed

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
    const auto* buffer = reinterpret_cast<const ChunkBuffer*>(self);
    return PyBuffer_FillInfo(view, self, buffer->bytes, static_cast<Py_ssize_t>(buffer->length),
                             buffer->writable ? 0 : 1, flags);
}
void drop_buffer(PyObject* self) {
    auto* buffer = reinterpret_cast<ChunkBuffer*>(self);
    PyTypeObject* type = Py_TYPE(self);
    std::destroy_at(&buffer->mapping);
    buffer->held->hide(buffer->index);
    std::destroy_at(&buffer->held);
    type->tp_free(self);
    Py_DECREF(type);
}
PyType_Slot buffer_slots[] = {
    {Py_bf_getbuffer, reinterpret_cast<void*>(&get_buffer)},
    {Py_tp_dealloc, reinterpret_cast<void*>(&drop_buffer)},
    {Py_tp_doc, const_cast<char*>("A chunk's bytes in a pool, as a buffer; pinned until its last view is gone.")},
    {0, nullptr}};
PyType_Spec buffer_spec = {"ringcast._core.PoolBuffer", sizeof(ChunkBuffer), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, buffer_slots};

nb::object make_buffer(const Slot& slot, pool::Mapping mapping, std::byte* bytes, bool writable) {
    const PoolLease& lease = *slot.of;
    lease.held->show(slot.index, lease.looks[slot.index]);
    PyObject* const made = buffer_type->tp_alloc(buffer_type, 0);
    if (made == nullptr) {
        lease.held->hide(slot.index);
        throw nb::python_error();
    }
    auto* buffer = reinterpret_cast<ChunkBuffer*>(made);
    std::construct_at(&buffer->held, lease.held);
    buffer->index = slot.index;
    std::construct_at(&buffer->mapping, std::move(mapping));
    buffer->bytes = bytes;
    buffer->length = lease.chunk_bytes;
    buffer->writable = writable;
    return nb::steal(made);
}

PoolLease& open_lease(const Slot& slot) {
    if (slot.of->ended)
        raise("LeaseExpiredError", "this chunk has been given back: make its views before its lease is committed");
    return *slot.of;
}

nb::object array_of(const Slot& slot) {
    PoolLease& lease = open_lease(slot);
    const nb::object numpy = nb::module_::import_("numpy");
    if (!slot.writable) {
        const pool::Look& look = lease.looks[slot.index];
        auto* bytes = const_cast<std::byte*>(lease.core->memory().data() + lease.core->offset(look.entry, lease.part));
        return numpy.attr("frombuffer")(make_buffer(slot, {}, bytes, false), numpy.attr("uint8"));
    }
    auto& store = nb::cast<StoreLease&>(slot.lease);
    if (store.is_filled())
        raise("LeaseExpiredError", "this chunk has been committed or aborted, or is being: fill it before that");
    {
        const std::lock_guard guard(store.gathers.mutex);
        store.gathers.shown[slot.index] = true;
    }
    std::byte* bytes =
        lease.core->memory().writable_data() + lease.core->offset(lease.looks[slot.index].entry, lease.part);
    const nb::object array = numpy.attr("frombuffer")(make_buffer(slot, {}, bytes, true), numpy.attr("uint8"));
    store.arrays.push_back(nb::module_::import_("weakref").attr("ref")(array));
    return array;
}

nb::object tensor_of(const Slot& slot) {
    PoolLease& lease = open_lease(slot);
    const nb::object torch = nb::module_::import_("ringcast._extras").attr("needed")("torch", "a tensor of a chunk");
    if (slot.writable) return torch.attr("from_numpy")(array_of(slot));
    // torch knows no tensors that cannot be written to: what is written to this one stays in this process.
    const pool::Look& look = lease.looks[slot.index];
    auto [mapping, bytes] =
        lease.core->memory().map_privately(lease.core->offset(look.entry, lease.part), lease.chunk_bytes);
    if (bytes == nullptr) return torch.attr("from_numpy")(array_of(slot).attr("copy")());
    return torch.attr("frombuffer")(make_buffer(slot, std::move(mapping), bytes, true),
                                    "dtype"_a = torch.attr("uint8"));
}

}  // namespace

nb::object make_slot(nb::object lease, PoolLease& of, std::uint32_t index, bool writable) {
    return nb::cast(Slot{std::move(lease), &of, index, writable});
}

void add_slot_type(nb::module_& module) {
    Collected<Slot> collected;
    nb::class_<Slot>(
        module, "Slot", nb::type_slots(collected.slots),
        R"(One chunk of a lease: its `index` among the lease's keys, its `key`, and its bytes; of a group, those of its part.

`array` is a NumPy array of uint8 over the pool's memory, `tensor` one of torch. To be filled until the commit, of a
store; read-only of a retrieve, whose tensors can be written to all the same, and keep that to themselves. Its chunk stays
pinned for as long as any of them is there, also in forked children.

>>> with client.retrieve(keys) as found:
...     slot = found.slots[1]
...     slot.index, slot.key == keys[1], slot.array.nbytes
(1, True, 4096)
)")
        .def_ro("index", &Slot::index)
        .def_prop_ro(
            "key",
            [](const Slot& slot) { return digest_as_bytes(keys_of("keys", slot.of->keys).digests()[slot.index]); })
        .def_prop_ro("array", &array_of)
        .def_prop_ro("tensor", &tensor_of)
        .def("__repr__", [](const Slot& slot) {
            return "<Slot " + std::to_string(slot.index) + ", " + std::to_string(slot.of->chunk_bytes) + " bytes, " +
                   (slot.writable ? "to be written>" : "to be read>");
        });
    const nb::object buffer = owned(PyType_FromSpec(&buffer_spec));
    module.attr("PoolBuffer") = buffer;
    buffer_type = reinterpret_cast<PyTypeObject*>(buffer.inc_ref().ptr());
}

}  // namespace ringcast::bindings
