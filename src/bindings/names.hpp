// Whose is the last reference to an object: a variable's, or somebody's who cannot be seen?
#pragma once

#include <nanobind/nanobind.h>

namespace ringcast::bindings {

// Is it the value of a variable of the Python code that made this call, or of that code's caller (of an exit stack, for
// example)? Variables of a function, closures included; those of a module or class where that is the code that runs.
bool is_named(nanobind::handle object);

// Keeps `what` until `object`, which can be referred to weakly, is gone.
void keep_until_gone(nanobind::handle object, nanobind::handle what);

}  // namespace ringcast::bindings
