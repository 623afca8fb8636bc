#include "codec.hpp"

#include <string>

#include "arrays.hpp"
#include "foreign_code.hpp"
#include "py_errors.hpp"
#include "tensors.hpp"

namespace ringcast::bindings {

namespace {

// Tensors need reducers of their own, which plain pickling does not know.
bool torch_is_imported() {
    static PyObject* const name = PyUnicode_InternFromString("torch");
    PyObject* modules = PyImport_GetModuleDict();
    return PyDict_GetItemWithError(modules, name) != nullptr;
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
    if (!dumps_.is_none() && !torch_is_imported()) {
        const nb::object buffers = owned(PyList_New(0));
        PyObject* stream = plain_dumps(dumps_.ptr(), object, buffers.ptr());
        if (stream != nullptr) {
            nb::object whole = nb::steal(stream);
            if (PyList_GET_SIZE(buffers.ptr()) == 0) return whole;
            if (PyList_Insert(buffers.ptr(), 0, whole.ptr()) != 0) throw nb::python_error();
            return buffers;
        }
        if (PyErr_ExceptionMatches(PyExc_Exception) == 0) throw nb::python_error();
        PyErr_Clear();  // the full way knows more, and says better what is wrong
    }
    const ForeignCode foreign;
    return encode_(nb::handle(object));
}

Frames Codec::encode(PyObject* object) const {
    try {
        return Frames(encoded(object), encoding_);
    } catch (nb::python_error& error) {
        if (passes(error)) throw;
        raise_from(error, "EncodeError",
                   std::string("an object of type '") + Py_TYPE(object)->tp_name + "' cannot be " +
                       (encoding_ == Encoding::pickle ? "pickled" : "encoded") + " (" + text_of(error) +
                       "); nothing was sent");
    }
}

nb::object Codec::decode(const nb::object& buffer, const std::byte* bytes, std::uint64_t length, Encoding encoding,
                         bool framed) const {
    try {
        if (encoding == Encoding::array) return make_array(buffer, bytes, length);
        const ForeignCode foreign;
        if (encoding == Encoding::tensor) return make_tensor(buffer, bytes, length, writable_);
        if (framed) {
            nb::list frames = split_frames(buffer, bytes, length, writable_);
            const nb::object stream = frames[0];
            if (PyList_SetSlice(frames.ptr(), 0, 1, nullptr) != 0) throw nb::python_error();
            return decode_(static_cast<int>(encoding), stream, frames);
        }
        if (encoding == Encoding::pickle && !loads_.is_none()) {
            PyObject* stream = buffer.ptr();
            return owned(PyObject_Vectorcall(loads_.ptr(), &stream, 1, nullptr));
        }
        return decode_(static_cast<int>(encoding), buffer, nb::list());
    } catch (nb::python_error& error) {
        if (passes(error)) throw;
        raise_from(error, "DecodeError",
                   "a received message of " + std::to_string(length) + " bytes cannot be rebuilt (" + text_of(error) +
                       "); it is consumed, and the next call goes on with the next message");
    }
}

}  // namespace ringcast::bindings
