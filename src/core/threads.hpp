// Threads of the library's own: signals are for the threads that wait.
#pragma once

#include <csignal>
#include <thread>
#include <utility>

#include <pthread.h>

namespace ringcast {

// Throws std::system_error if no thread can be had.
template <class Body>
std::thread start_without_signals(Body&& body) {
    struct Blocked {
        sigset_t before;
        Blocked() {
            sigset_t all;
            sigfillset(&all);
            pthread_sigmask(SIG_BLOCK, &all, &before);
        }
        ~Blocked() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
    } blocked;
    return std::thread(std::forward<Body>(body));
}

}  // namespace ringcast
