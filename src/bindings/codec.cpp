#include "codec.hpp"

#include <new>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "foreign_code.hpp"
#include "py_errors.hpp"
#include "tensors.hpp"

namespace ringcast::bindings {

namespace {

// Tensors, and slices of Arrow data, need reducers of their own, which plain pickling does not know.
bool reducers_are_needed() {
    static PyObject* const torch = PyUnicode_InternFromString("torch");
    static PyObject* const arrow = PyUnicode_InternFromString("pyarrow");
    PyObject* modules = PyImport_GetModuleDict();
    return PyDict_GetItemWithError(modules, torch) != nullptr || PyDict_GetItemWithError(modules, arrow) != nullptr;
}

bool holds_no_others(PyObject* object) {
    return PyBytes_CheckExact(object) || PyUnicode_CheckExact(object) || PyLong_CheckExact(object) ||
           PyFloat_CheckExact(object);
}

// Sparse tensors that PyTorch rebuilt are put into a list of its own, which would keep them for ever: it gives back what
// unpickling one message added.
class KeptByTorch {
public:
    KeptByTorch() {
        static PyObject* const name = PyUnicode_InternFromString("torch._utils");
        static PyObject* const attribute = PyUnicode_InternFromString("_sparse_tensors_to_validate");
        PyObject* module = PyDict_GetItemWithError(PyImport_GetModuleDict(), name);
        if (module == nullptr) return;  // unpickling may import it: then from nothing on
        nb::object list = nb::steal(PyObject_GetAttr(module, attribute));
        if (!list.is_valid()) PyErr_Clear();
        if (!list.is_valid() || !PyList_Check(list.ptr())) return;
        before_ = PyList_GET_SIZE(list.ptr());
        list_ = std::move(list);
    }
    // Raises what is wrong with a tensor.
    void settle() {
        if (!list_.is_valid()) *this = KeptByTorch(0);
        if (!list_.is_valid() || PyList_GET_SIZE(list_.ptr()) <= before_) return;
        nb::module_::import_("ringcast.codec.sparse").attr("settle")(list_, before_);
    }
    void settle_without_errors() noexcept {
        try {
            settle();
        } catch (nb::python_error&) {
        }
    }

private:
    explicit KeptByTorch(Py_ssize_t before) : KeptByTorch() { before_ = before; }

    nb::object list_;
    Py_ssize_t before_ = 0;
};

// No shorter pickle, without frames, can have a sparse tensor in it: the names alone that rebuild one are longer.
constexpr std::uint64_t kShortestSparse = 128;

nb::object loaded(PyObject* loads, PyObject* stream) { return owned(PyObject_Vectorcall(loads, &stream, 1, nullptr)); }

// ", which names a.B, c.D": what the pickle in `stream` would make, for the error that it cannot.
std::string named_in(nb::handle stream) {
    try {
        const nb::object found = nb::module_::import_("ringcast.codec.objects").attr("globals_named")(stream);
        const std::string names = nb::str(found).c_str();
        return names.empty() ? "" : ", which names " + names + ",";
    } catch (nb::python_error&) {
        return "";
    }
}

// pickle.dumps(object, 5, buffer_callback=buffers.append); null if it raises.
PyObject* plain_dumps(PyObject* dumps, PyObject* object, PyObject* buffers) {
    static PyObject* const protocol = PyLong_FromLong(5);
    static PyObject* const append = PyUnicode_InternFromString("append");
    static PyObject* const keywords = Py_BuildValue("(s)", "buffer_callback");
    PyObject* callback = PyObject_GetAttr(buffers, append);
    if (callback == nullptr) return nullptr;
    PyObject* arguments[] = {object, protocol, callback};
    PyObject* stream = PyObject_Vectorcall(dumps, arguments, 2, keywords);
    Py_DECREF(callback);
    return stream;
}

}  // namespace

Codec::Codec(const nb::object& codec)
    : encode_(codec.attr("encode")),
      decode_(codec.attr("decode")),
      dumps_(codec.attr("dumps")),
      loads_(codec.attr("loads")),
      encoding_(static_cast<Encoding>(nb::cast<int>(codec.attr("encoding")))),
      arrays_(nb::cast<bool>(codec.attr("arrays"))),
      copies_(codec.attr("copy").is_none()         ? Copies::when_needed
              : nb::cast<bool>(codec.attr("copy")) ? Copies::always
                                                   : Copies::never),
      writable_(nb::cast<bool>(codec.attr("writable"))) {}

nb::object Codec::encoded(PyObject* object) const {
    if (!dumps_.is_none() && (holds_no_others(object) || !reducers_are_needed())) {
        const nb::object buffers = owned(PyList_New(0));
        PyObject* stream = plain_dumps(dumps_.ptr(), object, buffers.ptr());
        if (stream != nullptr) {
            nb::object whole = nb::steal(stream);
            if (PyList_GET_SIZE(buffers.ptr()) == 0) return whole;
            if (PyList_Insert(buffers.ptr(), 0, whole.ptr()) != 0) throw nb::python_error();
            return buffers;
        }
        // Cleared by this: the full way knows more, and says better what is wrong.
        const nb::python_error error;
        if (interrupts(error)) throw nb::python_error(error);
    }
    const ForeignCode foreign;
    return encode_(nb::handle(object));
}

Frames Codec::encode(PyObject* object) const {
    try {
        return Frames(encoded(object), encoding_);
    } catch (nb::python_error& error) {
        // Of a missing package nobody knows by itself which message it is about.
        if (interrupts(error) || (is_one_of(error, "RingcastError") && !error.matches(PyExc_ImportError))) throw;
        raise_from(error, "EncodeError",
                   std::string("an object of type '") + Py_TYPE(object)->tp_name + "' cannot be " +
                       (encoding_ == Encoding::pickle ? "pickled" : "encoded") + " (" + text_of(error) +
                       "); nothing was sent");
    }
}

nb::object Codec::decoded(nb::object& stream, const std::byte* bytes, std::uint64_t length, Encoding encoding,
                          bool framed) const {
    const nb::object buffer = stream;
    if (encoding == Encoding::array) return make_array(buffer, bytes, length);
    const ForeignCode foreign;
    if (encoding == Encoding::tensor) return make_tensor(buffer, bytes, length, writable_);
    nb::object frames;
    if (framed) {
        frames = split_frames(buffer, bytes, length, writable_);
        stream = frames[0];
        if (PyList_SetSlice(frames.ptr(), 0, 1, nullptr) != 0) throw nb::python_error();
    }
    if (encoding == Encoding::pickle && !framed && length < kShortestSparse && !loads_.is_none())
        return loaded(loads_.ptr(), stream.ptr());
    if (!framed) frames = nb::list();
    if (encoding != Encoding::pickle) return decode_(static_cast<int>(encoding), stream, frames);
    KeptByTorch kept;
    try {
        nb::object object = framed || loads_.is_none() ? decode_(static_cast<int>(encoding), stream, frames)
                                                       : loaded(loads_.ptr(), stream.ptr());
        kept.settle();
        return object;
    } catch (nb::python_error&) {
        kept.settle_without_errors();  // the message is refused already
        throw;
    }
}

nb::object Codec::decode(const nb::object& buffer, const std::byte* bytes, std::uint64_t length, Encoding encoding,
                         bool framed, Tries& tries) const {
    nb::object stream = buffer;
    const auto attempt = [&] {
        stream = buffer;
        try {
            return decoded(stream, bytes, length, encoding, framed);
        } catch (const std::bad_alloc&) {
            PyErr_NoMemory();
            throw nb::python_error();
        }
    };
    const auto refuse = [&](nb::python_error& error) {
        tries.refused = true;
        const std::string named = encoding == Encoding::pickle ? named_in(stream) : "";
        raise_from(error, "DecodeError",
                   "a received message (number " + std::to_string(tries.number) + ", " + std::to_string(length) +
                       " bytes)" + named + " cannot be rebuilt (" + text_of(error) +
                       "); it is consumed, and the next call goes on with the next message");
    };
    // Returns if it is no doing of the message's.
    const auto judge = [&](nb::python_error& error, Cause cause) {
        if (cause == Cause::interruption) return;
        if (cause == Cause::want_of_memory && !std::exchange(tries.lacked_memory, true)) return;
        // An error of ours, such as QueueTimeoutError, that comes out of an object would be taken for one of this call.
        if (!is_one_of(error, "MessageError")) refuse(error);
        tries.refused = true;
    };
    try {
        return attempt();
    } catch (nb::python_error& error) {
        const Cause cause = cause_of(error);
        if (cause == Cause::doubtful) {
            try {
                attempt();
            } catch (nb::python_error& again) {
                judge(again, cause_of(again));
                throw;
            }
        } else {
            judge(error, cause);
        }
        throw;
    }
}

}  // namespace ringcast::bindings
