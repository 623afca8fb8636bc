// Fibers: the modelled threads, of which one runs at a time, on one thread of the operating system.
//
// An execution that is over, or leads nowhere, is abandoned: its fibers are not unwound, so what they call must not own
// memory across a modelled operation.
#pragma once

#include <sys/mman.h>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace model {

class Fiber {
public:
    static constexpr std::size_t kStackBytes = 256 << 10;

    Fiber() = default;
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;
    ~Fiber() {
        if (stack_ != nullptr) munmap(stack_, kStackBytes);
    }

    // The next switch to this fiber calls `entry`, which must never return.
    void reset(void (*entry)());
    // Goes on in this fiber; returns when something switches back to `from`.
    void switch_from(Fiber& from);

private:
    void* stack_ = nullptr;  // none: the fiber that the program started with
#if defined(__x86_64__)
    void* top_ = nullptr;
#else
    ucontext_t context_{};
#endif
};

#if defined(__x86_64__)
// What a call must preserve is pushed on the stack that is left and popped from the one that is entered. (swapcontext
// would make two system calls each time, for a signal mask that never changes.)
extern "C" void model_switch_stacks(void** save, void* load);
asm(R"(
.text
.type model_switch_stacks, @function
model_switch_stacks:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size model_switch_stacks, .-model_switch_stacks
)");

inline void Fiber::switch_from(Fiber& from) { model_switch_stacks(&from.top_, top_); }
#else
inline void Fiber::switch_from(Fiber& from) { swapcontext(&from.context_, &context_); }
#endif

inline void Fiber::reset(void (*entry)()) {
    if (stack_ == nullptr) {
        stack_ = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack_ == MAP_FAILED) std::abort();
    }
#if defined(__x86_64__)
    auto** top = reinterpret_cast<void**>(static_cast<std::byte*>(stack_) + kStackBytes);
    *--top = nullptr;  // keeps the stack aligned as after a call
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    top_ = top;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
}

}  // namespace model
