// The context managers of acquire_write, loan and loan_array.
//
// One rule for what may be left of a chunk to be written: nothing that was made of the memory handed out may change what
// is published. Views count as exports of the Chunk or as references to it, and are an error. Some libraries
// (torch.frombuffer) take the address and keep no more than a reference to the object that was handed out, so that may have
// one reference beside this object's. A variable's changes nothing. If it is none that is found (names.hpp), it may be such
// a library's: readers get a copy. Where something lives on, its memory is kept for it.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "arrays.hpp"
#include "buffers.hpp"
#include "modules.hpp"
#include "names.hpp"
#include "open_chunk.hpp"

namespace ringcast::bindings {

namespace {

// Who has references to what was handed out, beside the chunk's own.
enum class Held { by_nobody, by_variable, hidden, by_many };

Held who_holds(nb::handle handed_out) {
    const Py_ssize_t others = Py_REFCNT(handed_out.ptr()) - 1;
    if (others != 1) return others == 0 ? Held::by_nobody : Held::by_many;
    return is_named(handed_out) ? Held::by_variable : Held::hidden;
}

class WriteChunk : public OpenChunk {
public:
    WriteChunk(nb::object of, nb::object nbytes, nb::object timeout)
        : OpenChunk(std::move(of)), nbytes_(std::move(nbytes)), timeout_(std::move(timeout)) {}

    nb::object enter() {
        check_not_open();
        Sender& sender = end().writer(what());
        const WaitOptions options{.timeout_ns = parse_timeout(timeout_.ptr())};
        end().check_usable();
        Call call(end(), options);
        struct Reserved {
            WriteChunk& chunk;
            Sender& sender;
            bool lent = false;
            ~Reserved() {
                if (lent) return;
                chunk.forget();
                sender.cancel();
            }
        } reserved{*this, sender};
        Sender::Room room;
        if (!reserve(end(), sender, bytes(sender), room, options, call.deadline_ns, end_.ptr())) return nb::object();
        std::shared_ptr<Loan> loan = stages(room) ? nullptr : sender.make_loan(room);
        buffer_ = nb::cast(new Chunk(sender.shared_segment(), room, data_offset(), stages(room), loan),
                           nb::rv_policy::take_ownership);
        handed_out_ = make(*nb::inst_ptr<Chunk>(buffer_));
        nb::object result = handed_out_;
        references_ = Py_REFCNT(buffer_.ptr());
        exports_ = exports();
        sender.open_chunk(room, std::move(loan));
        reserved.lent = true;
        ticket_.set(call.entrust());
        if (!end().endpoint().stopped()) return result;
        forget();
        end().check_usable();
        return result;
    }

    void exit(bool wanted) {
        if (!leave(what(), !wanted)) {
            forget();
            if (wanted) raise_dropped();
            return;
        }
        Sender& sender = end().writer(what());
        nb::object buffer = std::move(buffer_);
        nb::object handed_out = std::move(handed_out_);
        nb::object whole = std::move(whole_);
        struct Finish {  // whatever comes: nothing is published by halves
            Sender& sender;
            ~Finish() {
                sender.drop_chunk();
                sender.give_turn_back();
            }
        };
        bool left = true;
        {
            const Finish finish{sender};
            Chunk& chunk = *nb::inst_ptr<Chunk>(buffer);
            const Held held = who_holds(handed_out);
            left = can_be_written(buffer, handed_out, whole, held);
            if (wanted && !left && held == Held::hidden && chunk.staging == nullptr) {
                left = !send_copy(sender, chunk);
            } else if (wanted && !left) {
                const Sender::Room& room = sender.chunk_room();
                if (chunk.staging) copy_bytes(room.bytes, chunk.payload, room.length);
                sender.publish_chunk(encoding(), keeps_view() && held != Held::by_nobody);
            }
            chunk.sealed.store(true, std::memory_order_relaxed);
        }
        if (wanted && left)
            raise("ViewsAliveError",
                  end().context() +
                      ": arrays, tensors or views of a chunk are alive at the end of its block and could change what "
                      "readers see; nothing was published. Delete them (`del array`) inside the block");
    }

    [[noreturn]] void raise_dropped() const {
        if (end().endpoint().stopped())
            raise("QueueClosedError", end().context() + ": this end was shut down" + End::why_closed() +
                                          " while the chunk was open; nothing of it was published");
        raise("BusyError", end().context() +
                               ": the thread that had opened this chunk ended without leaving it, and other calls went "
                               "on; nothing of it was published");
    }

    int traverse(visitproc visit, void* arg) const {
        for (const nb::object* o : {&end_, &nbytes_, &timeout_, &buffer_, &handed_out_, &whole_}) Py_VISIT(o->ptr());
        return traverse_more(visit, arg);
    }
    void clear() {
        drop();
        forget();
        end_.reset();
    }
    virtual ~WriteChunk() { drop(); }

protected:
    virtual const char* what() const { return "acquire_write"; }
    virtual Encoding encoding() const { return Encoding::raw; }
    virtual std::uint64_t bytes(Sender& sender) {
        return nbytes_.is_none() ? sender.segment().geometry().max_chunk_bytes : parse_count("nbytes", nbytes_.ptr());
    }
    virtual std::uint64_t data_offset() const { return 0; }
    // A view of a slot could outlive the block and change a later message.
    virtual bool stages(const Sender::Room& room) const { return !room.in_block; }
    // The object for the user.
    virtual nb::object make(Chunk&) { return owned(PyMemoryView_FromObject(buffer_.ptr())); }
    virtual bool can_be_written(nb::handle buffer, nb::handle view, nb::handle, Held held) {
        if (held == Held::by_many) return true;  // and the view keeps the memory for them
        const bool hidden = held == Held::hidden;
        if (hidden) keep_until_gone(view, buffer);
        PyObject* released = PyObject_CallMethod(view.ptr(), "release", nullptr);
        if (released == nullptr) {
            if (PyErr_ExceptionMatches(PyExc_BufferError) == 0) throw nb::python_error();
            PyErr_Clear();
            return true;
        }
        Py_DECREF(released);
        return nb::inst_ptr<Chunk>(buffer)->exports.load(std::memory_order_relaxed) != 0 ||
               Py_REFCNT(buffer.ptr()) > (hidden ? 2 : 1);
    }
    virtual bool keeps_view() const { return false; }  // as one that cannot write
    virtual int traverse_more(visitproc, void*) const { return 0; }

    // To readers goes another block than the chunk's, which is kept for whoever holds it. False: there is no other, and no
    // reader can help it.
    bool send_copy(Sender& sender, const Chunk& chunk) {
        const WaitOptions options{.timeout_ns = parse_timeout(timeout_.ptr())};
        const std::uint64_t bytes = chunk.data_offset + chunk.length;
        std::int64_t deadline_ns = 0;
        Sender::Room room;
        sender.drop_chunk();
        if (!sender.try_reserve(bytes, room)) {
            if (sender.only_loans_in_the_way()) return false;
            if (!reserve(end(), sender, bytes, room, options, deadline_ns, end_.ptr())) throw nb::python_error();
        }
        copy_bytes(room.bytes, chunk.payload, bytes);
        sender.commit(room, encoding(), false);
        return true;
    }
    std::uint32_t exports() const { return nb::inst_ptr<Chunk>(buffer_)->exports.load(std::memory_order_relaxed); }
    void forget() {
        ticket_.set(0);
        const nb::object gone[] = {std::move(handed_out_), std::move(whole_), std::move(buffer_)};
    }

    nb::object nbytes_;
    nb::object timeout_;
    nb::object buffer_;      // the Chunk
    nb::object handed_out_;  // a view of it, as the user got it
    nb::object whole_;       // what the views that are made of that refer to, if it is another object
    Py_ssize_t references_ = 0;
    std::uint32_t exports_ = 0;
};

// The array becomes read-only on leaving and may be kept, by its name.
class LoanedArray : public WriteChunk {
public:
    LoanedArray(nb::object of, nb::tuple shape, nb::object dtype, const std::string& text, std::uint64_t nbytes,
                nb::object timeout)
        : WriteChunk(std::move(of), nb::none(), std::move(timeout)),
          shape_(std::move(shape)),
          dtype_(std::move(dtype)),
          text_(text),
          extents_(nb::cast<std::vector<Py_ssize_t>>(shape_)),
          elements_(nbytes) {}

protected:
    // A kept array of less does not keep a block: it is copied when it is published.
    static constexpr std::uint64_t kStagedBytes = 64 << 10;

    const char* what() const override { return "loan_array"; }
    Encoding encoding() const override { return Encoding::array; }
    std::uint64_t data_offset() const override { return array_data_offset(extents_.size(), text_.size()); }
    std::uint64_t bytes(Sender&) override { return data_offset() + elements_; }
    bool stages(const Sender::Room& room) const override { return !room.in_block || elements_ < kStagedBytes; }

    nb::object make(Chunk& chunk) override {
        write_array_header(chunk.payload, 'C', extents_.data(), extents_.size(), text_);
        const nb::object view = owned(PyMemoryView_FromObject(buffer_.ptr()));
        try {
            // The base of slices and of most other views is this one, not the array that the user gets; what else is made
            // of the array refers to the array itself.
            whole_ = nb::module_::import_("numpy").attr("ndarray")(shape_, dtype_, view);
            nb::object array = whole_[nb::ellipsis()];
            whole_references_ = Py_REFCNT(whole_.ptr());
            return array;
        } catch (nb::python_error& error) {
            if (!error.matches(PyExc_ValueError)) throw;
            raise_from(error, "ArgumentError",
                       end().context() + ": there can be no array of shape " + nb::cast<std::string>(nb::repr(shape_)) +
                           " and dtype " + text_ + " (" + text_of(error) + ")");
        }
    }
    bool can_be_written(nb::handle buffer, nb::handle array, nb::handle whole, Held held) override {
        const Chunk& chunk = *nb::inst_ptr<Chunk>(buffer);
        const bool left = held == Held::by_many || Py_REFCNT(whole.ptr()) > whole_references_ ||
                          Py_REFCNT(buffer.ptr()) > references_ ||
                          chunk.exports.load(std::memory_order_relaxed) > exports_;
        array.attr("setflags")(nb::arg("write") = false);
        return left;
    }
    bool keeps_view() const override { return true; }
    int traverse_more(visitproc visit, void* arg) const override {
        Py_VISIT(shape_.ptr());
        Py_VISIT(dtype_.ptr());
        return 0;
    }

private:
    nb::tuple shape_;
    nb::object dtype_;
    std::string text_;
    std::vector<Py_ssize_t> extents_;
    std::uint64_t elements_;
    Py_ssize_t whole_references_ = 0;
};

PyObject* exit_write(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
    return guarded_chunk<WriteChunk>(self, [&] {
        chunk_of<WriteChunk>(self).exit(!has_failed(arguments, count));
        return Py_NewRef(Py_None);
    });
}

PyMethodDef write_methods[] = {
    {"__enter__", &enter<WriteChunk>, METH_NOARGS, "__enter__($self)\n--\n\n"},
    {"__exit__", as_c_function(&exit_write), METH_FASTCALL, "__exit__($self, kind, error, traceback, /)\n--\n\n"},
};

}  // namespace

void bind_write_chunks(nb::module_& module) {
    using namespace nb::literals;
    PyType_Slot write_slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(&traverse<WriteChunk>)},
                                 {Py_tp_clear, reinterpret_cast<void*>(&clear<WriteChunk>)},
                                 {0, nullptr}};
    nb::object write =
        nb::class_<WriteChunk>(module, "WriteChunk", nb::type_slots(write_slots),
                               "The context manager of acquire_write and loan.")
            .def(nb::init<nb::object, nb::object, nb::object>(), "end"_a, "nbytes"_a.none(), "timeout"_a.none());
    add_methods(write, write_methods, std::size(write_methods));
    PyType_Slot array_slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(&traverse<LoanedArray>)},
                                 {Py_tp_clear, reinterpret_cast<void*>(&clear<LoanedArray>)},
                                 {0, nullptr}};
    nb::class_<LoanedArray, WriteChunk>(module, "LoanedArray", nb::type_slots(array_slots),
                                        "The context manager of loan_array.")
        .def(nb::init<nb::object, nb::tuple, nb::object, std::string, std::uint64_t, nb::object>(), "end"_a, "shape"_a,
             "dtype"_a, "dtype_text"_a, "nbytes"_a, "timeout"_a.none());
}

}  // namespace ringcast::bindings
