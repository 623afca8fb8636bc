#include "foreign_code.hpp"

#include <pthread.h>
#include <chrono>
#include <thread>

#include "modules.hpp"
#include "unlocked.hpp"

namespace ringcast::bindings {

void ForeignCode::await_none(double seconds) {
    using Clock = std::chrono::steady_clock;
    const auto until = Clock::now() + std::chrono::duration<double>(seconds);
    while (running_.load(std::memory_order_relaxed) > 0 && Clock::now() < until) {
        const Unlocked unlocked;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

void bind_foreign_code(nanobind::module_& module) {
    using namespace nanobind::literals;
    pthread_atfork(nullptr, nullptr, [] { ForeignCode::running_.store(0, std::memory_order_relaxed); });
    module.def("await_foreign_code", &ForeignCode::await_none, "seconds"_a);
}

}  // namespace ringcast::bindings
