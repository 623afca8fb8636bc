// Does anybody still want the result of a call that waits? Asked between the slices of its wait.
#pragma once

#include <nanobind/nanobind.h>

namespace ringcast::bindings {

enum class Wanted { always, for_now, no_more };

// `no_more`: certainly nobody can get it (ringcast._futures); `for_now`: that may still come true.
inline Wanted is_wanted() {
    const nanobind::object given_up = nanobind::module_::import_("ringcast._futures").attr("is_given_up")();
    if (given_up.is_none()) return Wanted::always;
    return nanobind::cast<bool>(given_up) ? Wanted::no_more : Wanted::for_now;
}

}  // namespace ringcast::bindings
