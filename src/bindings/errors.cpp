#include "py_errors.hpp"

#include "modules.hpp"
#include "platform/refusals.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <atomic>
#include <cerrno>
#include <exception>
#include <system_error>

namespace nb = nanobind;

namespace ringcast::bindings {

namespace {

const char* type_of(ErrorCode code) {
    switch (code) {
        case ErrorCode::invalid_argument:
            return "ArgumentError";
        case ErrorCode::segment_not_found:
            return "SegmentNotFoundError";
        case ErrorCode::segment_exists:
            return "SegmentExistsError";
        case ErrorCode::segment_permission:
            return "SegmentPermissionError";
        case ErrorCode::segment_mismatch:
            return "SegmentMismatchError";
        case ErrorCode::capacity:
            return "CapacityError";
        case ErrorCode::message_too_large:
            return "MessageTooLargeError";
        case ErrorCode::rank_taken:
            return "RankTakenError";
        case ErrorCode::rank_unknown:
            return "RankError";
        case ErrorCode::closed:
            return "QueueClosedError";
        case ErrorCode::corrupt:
            return "CorruptError";
        case ErrorCode::reader_evicted:
            return "ReaderEvictedError";
        case ErrorCode::writer_died:
            return "WriterDiedError";
        case ErrorCode::link_died:
            return "LinkDiedError";
        case ErrorCode::reader_died:
            return "ReaderDiedError";
        case ErrorCode::reader_left:
            return "ReaderLeftError";
        case ErrorCode::queue_full:
            return "QueueFullError";
        case ErrorCode::tier:
            return "TierError";
        case ErrorCode::link:
            return "LinkError";
        case ErrorCode::system:
            return "SystemCallError";
    }
    return "RingcastError";
}

PyObject* kept_errors = nullptr;  // what ringcast.errors has; set at import, never changed

// A finalizer may still use an end when the interpreter has let go of its modules: nothing can be imported then.
nb::object error_type(const char* name) {
    try {
        const nb::object type = nb::module_::import_("ringcast.errors").attr(name);
        if (PyType_Check(type.ptr()) != 0) return type;  // the names in a module that goes become None
    } catch (nb::python_error&) {
        if (PyDict_GetItemString(kept_errors, name) == nullptr) throw;
    }
    return nb::borrow(PyDict_GetItemString(kept_errors, name));
}

void set_error(const char* type, const std::string& message, int system_errno,
               const std::optional<Peer>& peer = std::nullopt) {
    const nb::object exception_type = error_type(type);
    const nb::object exception = exception_type(message);
    if (system_errno != 0 && PyObject_HasAttrString(exception.ptr(), "errno")) exception.attr("errno") = system_errno;
    if (peer) {
        if (PyObject_HasAttrString(exception.ptr(), "rank")) exception.attr("rank") = peer->rank;
        exception.attr("pid") = peer->pid;
    }
    PyErr_SetObject(exception_type.ptr(), exception.ptr());
}

void set_refused(platform::Asked asked, const char* what, int number) {
    try {
        platform::throw_refused(asked, what, number);
    } catch (const Error& refused) {
        set_error(type_of(refused.code()), refused.what(), refused.system_errno());
    }
}

}  // namespace

void raise(const char* type, const std::string& message, int system_errno) {
    set_error(type, message, system_errno);
    throw nb::python_error();
}

void raise(const Error& error, const std::string& context) {
    set_error(type_of(error.code()), context.empty() ? std::string(error.what()) : context + ": " + error.what(),
              error.system_errno(), error.peer());
    throw nb::python_error();
}

nb::handle timeout_error() {
    static std::atomic<PyObject*> type{nullptr};
    PyObject* known = type.load(std::memory_order_acquire);  // acquire [timeout-error]
    if (known == nullptr) {
        known = error_type("QueueTimeoutError").release().ptr();
        type.store(known, std::memory_order_release);  // release [timeout-error]
    }
    return known;
}

void raise_from(nb::python_error& cause, const char* type, const std::string& message) {
    const nb::object exception_type = error_type(type);
    const nb::object exception = exception_type(message);
    PyException_SetCause(exception.ptr(), cause.value().inc_ref().ptr());
    PyException_SetContext(exception.ptr(), cause.value().inc_ref().ptr());
    PyErr_SetObject(exception_type.ptr(), exception.ptr());
    throw nb::python_error();
}

Cause cause_of(const nb::python_error& error) {
    const nb::handle trace = error.traceback();
    return static_cast<Cause>(nb::cast<int>(
        nb::module_::import_("ringcast._interruptions")
            .attr("cause_of")(error.value(), trace.is_valid() ? nb::borrow(trace) : nb::object(nb::none()))));
}

bool interrupts(const nb::python_error& error) { return cause_of(error) != Cause::object; }

bool is_one_of(const nb::python_error& error, const char* type) { return error.matches(error_type(type)); }

std::string text_of(const nb::python_error& error) {
    return nb::cast<std::string>(nb::module_::import_("ringcast._mishaps").attr("shown")(error.value()));
}

void bind_errors(nb::module_& module) {
    using namespace nb::literals;
    kept_errors = owned(PyDict_Copy(PyModule_GetDict(nb::module_::import_("ringcast.errors").ptr()))).release().ptr();
    module.def(
        "remedy_of",
        [](int number, bool thread) {
            return platform::remedy_of(thread ? platform::Asked::thread : platform::Asked::open, number);
        },
        "errno"_a, "thread"_a = false);
    nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
        try {
            std::rethrow_exception(pointer);
        } catch (const Error& error) {
            set_error(type_of(error.code()), error.what(), error.system_errno(), error.peer());
        } catch (const std::bad_alloc&) {
            set_refused(platform::Asked::mapping, "taking memory of this process", ENOMEM);
        } catch (const std::system_error& error) {  // no thread, or no descriptor to wake one by, can be had
            const int number = error.code().value();
            if (number == EAGAIN)
                set_refused(platform::Asked::thread, "starting a thread", number);
            else
                set_refused(platform::Asked::open, "opening an event", number);
        }
    });
}

}  // namespace ringcast::bindings
