#include "wake_up.hpp"

#include <atomic>
#include <thread>

#include "parking.hpp"
#include "platform/policy.hpp"
#include "waiting.hpp"

namespace ringcast {

std::vector<std::int64_t> measure_wake_ups(std::uint32_t count, std::int64_t pause_ns) {
    using platform::Native;
    Parked<Native> parked{};
    std::atomic<std::uint32_t> called{0};
    std::vector<std::int64_t> taken;
    taken.reserve(count);
    std::thread sleeper([&] {
        for (std::uint32_t i = 0; i < count; ++i) {
            const auto ready = [&] { return called.load(std::memory_order_relaxed) > i; };
            while (!ready())
                if (park<Native>(parked, 1, kFirstSliceNs, ready) == ParkResult::woken)
                    taken.push_back(Native::now_ns() - parked.woken_at.load(std::memory_order_relaxed));
        }
    });
    for (std::uint32_t i = 0; i < count; ++i) {
        std::this_thread::sleep_for(std::chrono::nanoseconds(pause_ns));
        called.store(i + 1, std::memory_order_relaxed);
        Native::fence_seq_cst();  // [signal]
        unpark<Native>(parked);
    }
    sleeper.join();
    return taken;
}

}  // namespace ringcast
