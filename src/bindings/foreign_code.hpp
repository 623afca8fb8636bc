// Calls into other libraries' native code (PyTorch's, to encode and decode) that may give up the interpreter's lock.
//
// Until Python 3.13 a thread that asks for that lock while the interpreter goes away is ended by unwinding its stack, and
// a frame of a C++ library that does not expect it ends the process (see thread_end.cpp for our own frames). So the exit
// handler, which has closed all ends before, so that no further such call of ours begins, waits for those under way.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>

namespace ringcast::bindings {

class ForeignCode {
public:
    // relaxed: the interpreter's lock orders them, and a build without it has Pythons that end no thread.
    ForeignCode() noexcept { running_.fetch_add(1, std::memory_order_relaxed); }
    ~ForeignCode() { running_.fetch_sub(1, std::memory_order_relaxed); }
    ForeignCode(const ForeignCode&) = delete;
    ForeignCode& operator=(const ForeignCode&) = delete;

    // Waits until none is under way, at most for so long. With the interpreter's lock, which it gives up meanwhile.
    static void await_none(double seconds);

private:
    friend void bind_foreign_code(nanobind::module_& module);
    static inline std::atomic<int> running_{0};  // below 0 where such a call has forked
};

}  // namespace ringcast::bindings
