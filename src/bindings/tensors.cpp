#include "tensors.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "foreign_code.hpp"
#include "frames.hpp"
#include "py_errors.hpp"

namespace ringcast::bindings {

namespace {

constexpr const char* kCapsuleName = "dltensor";
constexpr std::int32_t kCpu = 1;  // DLPack's number

struct Dtype {
    const char* name;
    nb::dlpack::dtype_code code;
    std::uint8_t bits;
};
using enum nb::dlpack::dtype_code;
constexpr std::array kDtypes{
    Dtype{"float32", Float, 32},
    Dtype{"float64", Float, 64},
    Dtype{"float16", Float, 16},
    Dtype{"bfloat16", Bfloat, 16},
    Dtype{"uint8", UInt, 8},
    Dtype{"int8", Int, 8},
    Dtype{"int16", Int, 16},
    Dtype{"int32", Int, 32},
    Dtype{"int64", Int, 64},
    Dtype{"bool", Bool, 8},
    Dtype{"uint16", UInt, 16},
    Dtype{"uint32", UInt, 32},
    Dtype{"uint64", UInt, 64},
    Dtype{"complex32", Complex, 32},
    Dtype{"complex64", Complex, 64},
    Dtype{"complex128", Complex, 128},
    Dtype{"float8_e4m3fn", Float8_E4M3FN, 8},
    Dtype{"float8_e4m3fnuz", Float8_E4M3FNUZ, 8},
    Dtype{"float8_e5m2", Float8_E5M2, 8},
    Dtype{"float8_e5m2fnuz", Float8_E5M2FNUZ, 8},
    Dtype{"float8_e8m0fnu", Float8_E8M0FNU, 8},
};

// What is used of PyTorch and NumPy, looked up once and kept for ever, as strong references.
struct Torch {
    explicit Torch(nb::handle torch)
        : tensor(torch.attr("Tensor")),
          to_dlpack(torch.attr("utils").attr("dlpack").attr("to_dlpack")),
          from_dlpack(torch.attr("utils").attr("dlpack").attr("from_dlpack")) {
        const nb::object numpy = nb::module_::import_("ringcast._extras").attr("needed")("numpy", "a torch tensor");
        empty = numpy.attr("empty");
        byte = numpy.attr("dtype")("uint8");
        for (const char* name : {"is_conj", "is_neg", "_is_zerotensor"}) marks.push_back(interned(name));
        // Named dimensions are gone from later releases.
        if (nb::hasattr(tensor, "has_names")) marks.push_back(interned("has_names"));
        for (std::size_t i = 0; i < kDtypes.size(); ++i) dtypes[i] = nb::getattr(torch, kDtypes[i].name, nb::none());
    }
    static nb::object interned(const char* text) { return owned(PyUnicode_InternFromString(text)); }

    nb::object tensor;
    nb::object to_dlpack;
    nb::object from_dlpack;
    nb::object empty;
    nb::object byte;
    std::vector<nb::object> marks;                  // methods that are false for a tensor that is just its elements
    std::array<nb::object, kDtypes.size()> dtypes;  // None: this release has it not
    nb::object dtype = interned("dtype");
    nb::object is_cpu = interned("is_cpu");
    nb::object requires_grad = interned("requires_grad");
    nb::object attributes = interned("__dict__");
    nb::object hooks = interned("_backward_hooks");
    nb::object stride = interned("stride");
    nb::object storage = interned("untyped_storage");
    nb::object storage_offset = interned("storage_offset");
    nb::object nbytes = interned("nbytes");
    nb::object data_ptr = interned("data_ptr");
};
std::atomic<const Torch*> known{nullptr};

const Torch& loaded(nb::handle module) {
    auto made = std::make_unique<const Torch>(module);
    const Torch* first = nullptr;
    // release [torch]: `known` is loaded with acquire. Another thread may have been first.
    if (known.compare_exchange_strong(first, made.get(), std::memory_order_acq_rel, std::memory_order_acquire))
        first = made.release();
    return *first;
}

// Null if `object` is not exactly a torch.Tensor.
const Torch* torch_of(PyObject* object) {
    const Torch* torch = known.load(std::memory_order_acquire);  // acquire [torch]
    if (torch == nullptr) {
        if (std::strcmp(Py_TYPE(object)->tp_name, "Tensor") != 0) return nullptr;
        const nb::dict modules = nb::borrow<nb::dict>(PyImport_GetModuleDict());
        if (!modules.contains("torch")) return nullptr;
        torch = &loaded(modules["torch"]);
    }
    return reinterpret_cast<PyObject*>(Py_TYPE(object)) == torch->tensor.ptr() ? torch : nullptr;
}

nb::object attribute(PyObject* object, const nb::object& name) { return owned(PyObject_GetAttr(object, name.ptr())); }
nb::object call(PyObject* object, const nb::object& method) {
    return owned(PyObject_VectorcallMethod(method.ptr(), &object, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
}
std::int64_t number(const nb::object& object) {
    const long long value = PyLong_AsLongLong(object.ptr());
    if (value == -1 && PyErr_Occurred() != nullptr) throw nb::python_error();
    return value;
}

// Is there nothing to the tensor but elements in the memory of this process, a dtype and a shape?
bool is_plain(const Torch& torch, PyObject* tensor) {
    if (attribute(tensor, torch.requires_grad).ptr() != Py_False) return false;
    if (attribute(tensor, torch.is_cpu).ptr() != Py_True) return false;
    if (PyDict_Size(attribute(tensor, torch.attributes).ptr()) != 0) return false;
    if (!attribute(tensor, torch.hooks).is_none()) return false;
    for (const nb::object& mark : torch.marks)
        if (call(tensor, mark).ptr() != Py_False) return false;
    return true;
}

// The strides that torch.empty gives a shape, in items; false if the elements would be too many to count.
bool default_strides(const std::int64_t* shape, std::size_t ndim, std::int64_t* strides) {
    std::int64_t items = 1;
    for (std::size_t i = ndim; i-- > 0;) {
        strides[i] = items;
        if (shape[i] < 0 || __builtin_mul_overflow(items, std::max<std::int64_t>(shape[i], 1), &items)) return false;
    }
    return true;
}
std::uint64_t count_items(const std::int64_t* shape, std::size_t ndim) {
    std::uint64_t items = 1;
    for (std::size_t i = 0; i < ndim; ++i) items *= static_cast<std::uint64_t>(shape[i]);
    return items;
}

// Exactly those: an axis of one element may have another one, which the reader is to have as well.
bool has_default_strides(const Torch& torch, PyObject* tensor, const nb::dlpack::dltensor& described) {
    std::array<std::int64_t, kMostDimensions> expected;
    const auto ndim = static_cast<std::size_t>(described.ndim);
    if (ndim > kMostDimensions || !default_strides(described.shape, ndim, expected.data())) return false;
    const nb::object strides = call(tensor, torch.stride);
    if (!PyTuple_Check(strides.ptr()) || PyTuple_GET_SIZE(strides.ptr()) != described.ndim) return false;
    for (std::size_t i = 0; i < ndim; ++i)
        if (number(nb::borrow(PyTuple_GET_ITEM(strides.ptr(), static_cast<Py_ssize_t>(i)))) != expected[i])
            return false;
    return true;
}

// A storage may have been made smaller under its tensors.
bool lies_in_its_storage(const Torch& torch, PyObject* tensor, std::uint64_t item_bytes, std::uint64_t data_bytes) {
    if (data_bytes == 0) return true;
    const auto offset = static_cast<std::uint64_t>(number(call(tensor, torch.storage_offset))) * item_bytes;
    const auto storage_bytes =
        static_cast<std::uint64_t>(number(call(call(tensor, torch.storage).ptr(), torch.nbytes)));
    return offset <= storage_bytes && data_bytes <= storage_bytes - offset;
}

const Dtype* dtype_of(const Torch& torch, PyObject* tensor) {
    const nb::object dtype = attribute(tensor, torch.dtype);
    for (std::size_t i = 0; i < kDtypes.size(); ++i)
        if (torch.dtypes[i].is(dtype)) return &kDtypes[i];
    return nullptr;
}

// A received tensor as DLPack hands it over. The first part is DLPack's DLManagedTensor.
struct Managed {
    nb::dlpack::dltensor tensor;
    void* context = nullptr;
    void (*deleter)(Managed*) = nullptr;
};
struct Received : Managed {
    nb::object owner;  // of the memory
    std::array<std::int64_t, kMostDimensions> shape;
    std::array<std::int64_t, kMostDimensions> strides;
};

// Called by PyTorch, in any thread and without the interpreter's lock.
void drop(Managed* managed) {
    if (!nb::is_alive()) return;  // the process is about to end, and its memory with it
    const nb::gil_scoped_acquire acquire_gil;
    delete static_cast<Received*>(managed);
}

// PyTorch renames a capsule when it takes what is in it.
void drop_untaken(PyObject* capsule) {
    if (PyCapsule_IsValid(capsule, kCapsuleName) == 0) return;
    auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, kCapsuleName));
    managed->deleter(managed);
}

const Torch& torch_for_decoding() {
    if (const Torch* torch = known.load(std::memory_order_acquire)) return *torch;  // acquire [torch]
    try {
        return loaded(nb::module_::import_("torch"));
    } catch (nb::python_error& error) {
        if (!error.matches(PyExc_ImportError)) throw;
        raise_from(
            error, "DecodeError",
            "a received message is a torch tensor, and torch cannot be imported here (" + text_of(error) +
                "); install it, or have the writer send NumPy arrays; the message is consumed, and the next call "
                "goes on with the next one");
    }
}

// NumPy's memory, since NumPy asks for huge pages for large arrays: the copy then takes a fraction of the page faults.
nb::object copy_of(const Torch& torch, const std::byte* data, std::uint64_t bytes, void** memory) {
    const nb::object count = owned(PyLong_FromUnsignedLongLong(bytes));
    PyObject* arguments[] = {count.ptr(), torch.byte.ptr()};
    nb::object array = owned(PyObject_Vectorcall(torch.empty.ptr(), arguments, 2, nullptr));
    Py_buffer view;
    if (PyObject_GetBuffer(array.ptr(), &view, PyBUF_WRITABLE) != 0) throw nb::python_error();
    *memory = view.buf;
    PyBuffer_Release(&view);
    copy_bytes(*memory, data, bytes);
    return array;
}

}  // namespace

OutgoingTensor::OutgoingTensor(nb::object object, nb::object capsule, const nb::dlpack::dltensor* tensor,
                               std::string_view dtype, std::uint64_t data_bytes)
    : object_(std::move(object)),
      capsule_(std::move(capsule)),
      tensor_(tensor),
      dtype_(dtype),
      data_bytes_(data_bytes),
      data_offset_(array_data_offset(static_cast<std::size_t>(tensor->ndim), dtype.size())) {}

std::optional<OutgoingTensor> OutgoingTensor::of(PyObject* object) {
    try {
        const Torch* torch = torch_of(object);
        if (torch == nullptr) return std::nullopt;
        const ForeignCode foreign;
        if (!is_plain(*torch, object)) return std::nullopt;
        const Dtype* dtype = dtype_of(*torch, object);
        if (dtype == nullptr) return std::nullopt;
        nb::object capsule = owned(PyObject_CallOneArg(torch->to_dlpack.ptr(), object));
        const auto* managed = static_cast<const Managed*>(PyCapsule_GetPointer(capsule.ptr(), kCapsuleName));
        if (managed == nullptr) throw nb::python_error();
        const nb::dlpack::dltensor& tensor = managed->tensor;
        if (tensor.device.device_type != kCpu || tensor.byte_offset != 0 ||
            !has_default_strides(*torch, object, tensor))
            return std::nullopt;
        const std::uint64_t item_bytes = dtype->bits / 8;
        const std::uint64_t data_bytes = item_bytes * count_items(tensor.shape, static_cast<std::size_t>(tensor.ndim));
        if (!lies_in_its_storage(*torch, object, item_bytes, data_bytes)) return std::nullopt;
        return OutgoingTensor(nb::borrow(object), std::move(capsule), &tensor, dtype->name, data_bytes);
    } catch (nb::python_error& error) {
        if (interrupts(error)) throw;
        return std::nullopt;  // sparse, nested, of a function transform: DLPack refuses what has no memory of its own
    }
}

bool OutgoingTensor::is_there() const {
    const Torch& torch = *known.load(std::memory_order_acquire);  // acquire [torch]
    const ForeignCode foreign;
    const nb::object address = call(object_.ptr(), torch.data_ptr);
    if (PyLong_AsVoidPtr(address.ptr()) != tensor_->data) return false;
    const auto ndim = static_cast<std::size_t>(tensor_->ndim);
    const std::uint64_t items = count_items(tensor_->shape, ndim);
    return lies_in_its_storage(torch, object_.ptr(), items == 0 ? 0 : data_bytes_ / items, data_bytes_);
}

void OutgoingTensor::write(std::byte* payload) const {
    write_array_header(payload, 'C', tensor_->shape, static_cast<std::size_t>(tensor_->ndim), dtype_);
    if (data_bytes_ != 0) copy_bytes(payload + data_offset_, tensor_->data, data_bytes_);
}

nb::object make_tensor(const nb::object& buffer, const std::byte* bytes, std::uint64_t length, bool writable) {
    const ArrayHeader header = read_array_header(bytes, length);
    const auto dtype =
        std::find_if(kDtypes.begin(), kDtypes.end(), [&](const Dtype& each) { return header.dtype == each.name; });
    if (dtype == kDtypes.end()) raise_corrupt_array("has a dtype that is not PyTorch's", length);
    std::unique_ptr<Received> received(new Received);  // not zeroed
    nb::dlpack::dltensor& tensor = received->tensor;
    tensor.device = {kCpu, 0};
    tensor.ndim = static_cast<std::int32_t>(header.ndim);
    tensor.dtype = {static_cast<std::uint8_t>(dtype->code), dtype->bits, 1};
    tensor.shape = received->shape.data();
    tensor.strides = received->strides.data();
    std::memcpy(tensor.shape, header.shape, 8 * header.ndim);
    const std::uint64_t data_bytes = length - header.data_offset;
    const std::uint64_t item_bytes = dtype->bits / 8;
    if (header.order != 'C' || !default_strides(tensor.shape, header.ndim, tensor.strides) ||
        data_bytes % item_bytes != 0 || count_items(tensor.shape, header.ndim) != data_bytes / item_bytes)
        raise_corrupt_array("has a shape of another size", length);

    const Torch& torch = torch_for_decoding();
    if (writable) {
        tensor.data = const_cast<std::byte*>(bytes) + header.data_offset;
        received->owner = buffer;
    } else {
        received->owner = copy_of(torch, bytes + header.data_offset, data_bytes, &tensor.data);
    }
    received->deleter = &drop;
    const nb::object capsule = owned(PyCapsule_New(static_cast<Managed*>(received.get()), kCapsuleName, &drop_untaken));
    received.release();  // the capsule's, then PyTorch's
    return owned(PyObject_CallOneArg(torch.from_dlpack.ptr(), capsule.ptr()));
}

}  // namespace ringcast::bindings
