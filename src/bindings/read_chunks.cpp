// The context manager of acquire_read.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <string>

#include "arguments.hpp"
#include "buffers.hpp"
#include "modules.hpp"
#include "open_chunk.hpp"

namespace ringcast::bindings {

namespace {

class ReadChunk : public OpenChunk {
public:
    ReadChunk(nb::object of, nb::object timeout, nb::object cancel, nb::object indefinite)
        : OpenChunk(std::move(of)),
          timeout_(std::move(timeout)),
          cancel_(std::move(cancel)),
          indefinite_(std::move(indefinite)) {}

    nb::object enter() {
        check_not_open();
        Receiver& receiver = end().reader("acquire_read");
        const WaitOptions options{parse_timeout(timeout_.ptr()), parse_cancel(cancel_.ptr()),
                                  parse_flag("indefinite", indefinite_.ptr())};
        Call call(end(), options);
        auto [buffer, view] = await_chunk(end(), receiver, options, call.deadline_ns, end_.ptr());
        if (!view.is_valid()) return view;
        buffer_ = std::move(buffer);  // until the chunk is left: only then has the reader's cursor passed the message
        ticket_.set(call.entrust());
        if (!end().endpoint().stopped()) return view;
        ticket_.set(0);
        buffer_.reset();
        end().check_usable();
        return view;
    }

    void exit(bool failed) {
        const bool open = leave("acquire_read", failed);
        const nb::object buffer = std::move(buffer_);
        if (!open) return;  // shut down; what the user has of the message is whole
        Receiver& receiver = end().reader("acquire_read");
        receiver.drop_chunk();
        // Evicted meanwhile? The bytes were checked when they were taken; the next call says it.
        try {
            receiver.settle();
        } catch (const Error&) {
        }
        receiver.give_turn_back();
    }

    int traverse(visitproc visit, void* arg) const {
        for (const nb::object* o : {&end_, &timeout_, &cancel_, &indefinite_, &buffer_}) Py_VISIT(o->ptr());
        return 0;
    }
    void clear() {
        drop();
        buffer_.reset();
        end_.reset();
    }
    ~ReadChunk() { drop(); }

private:
    nb::object timeout_;
    nb::object cancel_;
    nb::object indefinite_;
    nb::object buffer_;
};

PyObject* exit_read(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
    return guarded_chunk<ReadChunk>(self, [&] {
        chunk_of<ReadChunk>(self).exit(has_failed(arguments, count));
        return Py_NewRef(Py_None);
    });
}

PyMethodDef read_methods[] = {
    {"__enter__", &enter<ReadChunk>, METH_NOARGS, "__enter__($self)\n--\n\n"},
    {"__exit__", as_c_function(&exit_read), METH_FASTCALL, "__exit__($self, kind, error, traceback, /)\n--\n\n"},
};

}  // namespace

void bind_read_chunks(nb::module_& module) {
    using namespace nb::literals;
    PyType_Slot read_slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(&traverse<ReadChunk>)},
                                {Py_tp_clear, reinterpret_cast<void*>(&clear<ReadChunk>)},
                                {0, nullptr}};
    nb::object read =
        nb::class_<ReadChunk>(module, "ReadChunk", nb::type_slots(read_slots), "The context manager of acquire_read.")
            .def(nb::init<nb::object, nb::object, nb::object, nb::object>(), "end"_a, "timeout"_a.none(),
                 "cancel"_a.none(), "indefinite"_a.none());
    add_methods(read, read_methods, std::size(read_methods));
}

}  // namespace ringcast::bindings
