// macOS: no pid namespaces, no affinity, no quota.
#include "platform/process.hpp"

#include <stdlib.h>
#include <unistd.h>

namespace ringcast::platform {

std::uint32_t process_id() noexcept { return static_cast<std::uint32_t>(getpid()); }
std::uint32_t user_id() noexcept { return geteuid(); }
std::uint64_t pid_namespace() noexcept { return 0; }
CpuMask allowed_cpus() noexcept {
    CpuMask mask{};
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    for (long cpu = 0; cpu < online && cpu < 1024; ++cpu)
        mask[static_cast<std::size_t>(cpu) / 64] |= std::uint64_t{1} << (cpu % 64);
    return mask;
}

std::uint32_t cpu_quota() noexcept { return UINT32_MAX; }

std::uint64_t random_u64() {
    std::uint64_t value = 0;
    arc4random_buf(&value, sizeof value);
    return value;
}

}  // namespace ringcast::platform
