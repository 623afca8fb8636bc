// The end of a process whose parent is gone, whatever holds the interpreter's lock.
#include <nanobind/nanobind.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "modules.hpp"
#include "threads.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ringcast::bindings {

namespace {

// Once nobody holds the other end of the pipe `descriptor` any more, this process has `grace` seconds to end by itself.
void kill_when_closed(int descriptor, double grace) {
    start_without_signals([descriptor, grace] {
        pollfd end{.fd = descriptor, .events = 0, .revents = 0};  // a hang-up needs not be asked for
        while (poll(&end, 1, -1) < 0 && errno == EINTR) {
        }
        if ((end.revents & POLLHUP) == 0) return;  // somebody here has closed the descriptor
        std::this_thread::sleep_for(std::chrono::duration<double>(grace));
        kill(getpid(), SIGKILL);
    }).detach();
}

}  // namespace

void bind_guard(nb::module_& module) { module.def("kill_when_closed", &kill_when_closed, "descriptor"_a, "grace"_a); }

}  // namespace ringcast::bindings
