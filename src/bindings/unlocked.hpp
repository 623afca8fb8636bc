// Giving up the interpreter's lock around a native wait or a long copy: the one way in which these bindings do it.
#pragma once

#include <Python.h>

namespace ringcast::bindings {

// Other threads run Python while this object lives. A thread that the interpreter does not let back in, because it goes
// away, sleeps in the destructor until the process ends (thread_end.cpp).
class Unlocked {
public:
    Unlocked() noexcept : state_(PyEval_SaveThread()) {}
    ~Unlocked() { PyEval_RestoreThread(state_); }
    Unlocked(const Unlocked&) = delete;
    Unlocked& operator=(const Unlocked&) = delete;

private:
    PyThreadState* state_;
};

}  // namespace ringcast::bindings
