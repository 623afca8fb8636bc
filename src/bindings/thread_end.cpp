// Until Python 3.13, the interpreter ends a thread that asks for its lock while it goes away: by pthread_exit, which the
// C library carries out by unwinding the thread's stack. Through our frames that must not go: a function that is noexcept
// would end the process (`terminate called without an active exception`), so would a handler that catches everything,
// and destructors would let go of Python objects without the lock.
//
// The lock is asked for in many places: where a wait is over, where the binding library takes it, and wherever Python
// code runs below a call of ours (an object's __reduce__, a log handler, a finalizer). What they have in common is that
// the unwinder asks a frame's personality routine what there is to do. Ours (the linker puts it in the place of the
// language's, for this library alone) lets nothing be done: the thread sleeps, as Python itself has it from 3.14 on,
// until the process ends. Where the C library ends threads without unwinding (macOS, musl), none of this is needed.
#include <unistd.h>
#include <unwind.h>

extern "C" {

// The language's own, by the name that the linker gives it.
_Unwind_Reason_Code __real___gxx_personality_v0(int version, _Unwind_Action actions, _Unwind_Exception_Class type,
                                                _Unwind_Exception* exception, _Unwind_Context* context);

[[gnu::used, gnu::visibility("hidden")]] _Unwind_Reason_Code __wrap___gxx_personality_v0(int version,
                                                                                         _Unwind_Action actions,
                                                                                         _Unwind_Exception_Class type,
                                                                                         _Unwind_Exception* exception,
                                                                                         _Unwind_Context* context) {
    if ((actions & _UA_FORCE_UNWIND) != 0)
        while (true) pause();
    return __real___gxx_personality_v0(version, actions, type, exception, context);
}

}  // extern "C"
