// What the link that writes a relay says of it, beside its messages (flows.cpp).
#include <nanobind/stl/string.h>

#include "methods.hpp"

namespace ringcast::bindings {

using namespace nb::literals;

namespace {

void relay_end(nb::handle self, int why, const std::string& reason) {
    End& end = nb::cast<End&>(self);
    end.writer("_relay_end").note_ending(static_cast<Ending>(why), reason);
    end.endpoint().shut_down();
}

void relay_ready(nb::handle self) {
    End& end = nb::cast<End&>(self);
    Call call(end, WaitOptions{});
    end.writer("_relay_ready").confirm_ready();
}

}  // namespace

void add_relay_methods(nb::class_<End>& type) {
    type.def("_relay_end", &relay_end, "why"_a, "reason"_a).def("_relay_ready", &relay_ready);
}

}  // namespace ringcast::bindings
