#include "openssl.hpp"

#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace ringcast::bindings {

OpenSsl::OpenSsl() {
    nb::object path = nb::none();
    try {
        path = nb::getattr(nb::module_::import_("_hashlib"), "__file__", nb::none());
    } catch (nb::python_error& error) {
        if (!error.matches(PyExc_ImportError)) throw;
        return;  // a Python without OpenSSL
    }
    // Without a file the module is a part of the program.
    library_ = path.is_none() ? dlopen(nullptr, RTLD_NOW)
                              : dlopen(nb::cast<nb::str>(path).c_str(), RTLD_NOW | RTLD_NOLOAD | RTLD_LOCAL);
}

OpenSsl::~OpenSsl() {
    void (*clear_errors)() = nullptr;
    if (find("ERR_clear_error", clear_errors)) clear_errors();
}

// A program may hold several libraries, each with some of the functions: they are of use together only if they are of one.
void* OpenSsl::address_of(const char* name) {
    void* const address = library_ == nullptr ? nullptr : dlsym(library_, name);
    Dl_info where{};
    if (address == nullptr || dladdr(address, &where) == 0) return nullptr;
    if (base_ == nullptr) base_ = where.dli_fbase;
    return where.dli_fbase == base_ ? address : nullptr;
}

}  // namespace ringcast::bindings
