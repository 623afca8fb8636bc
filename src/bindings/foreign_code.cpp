#include "foreign_code.hpp"

#include <pthread.h>

#include "modules.hpp"
#include "platform/clock.hpp"
#include "unlocked.hpp"

namespace ringcast::bindings {

void ForeignCode::await_none(double seconds) {
    const std::int64_t until = platform::monotonic_ns() + static_cast<std::int64_t>(seconds * 1e9);
    while (running_.load(std::memory_order_relaxed) > 0 && platform::monotonic_ns() < until) {
        const Unlocked unlocked;
        platform::nap();
    }
}

void bind_foreign_code(nanobind::module_& module) {
    using namespace nanobind::literals;
    pthread_atfork(nullptr, nullptr, [] { ForeignCode::running_.store(0, std::memory_order_relaxed); });
    module.def("await_foreign_code", &ForeignCode::await_none, "seconds"_a);
}

}  // namespace ringcast::bindings
