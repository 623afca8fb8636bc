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

}  // namespace ringcast::bindings
