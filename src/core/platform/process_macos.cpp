// macOS: no pid namespaces, no affinity, no quota.
#include "platform/process.hpp"

#include <pthread.h>
#include <pthread/qos.h>
#include <stdlib.h>
#include <sys/sysctl.h>
#include <unistd.h>

namespace ringcast::platform {

std::uint32_t process_id() noexcept { return static_cast<std::uint32_t>(getpid()); }
std::uint32_t user_id() noexcept { return geteuid(); }
std::uint64_t pid_namespace() noexcept { return 0; }

std::uint64_t system_thread_id() noexcept {
    std::uint64_t id = 0;
    pthread_threadid_np(nullptr, &id);
    return id;
}
bool on_main_thread() noexcept { return pthread_main_np() != 0; }
bool thread_lives(std::uint64_t) noexcept { return true; }  // there is no call that would tell

void run_only_when_idle() noexcept { pthread_set_qos_class_self_np(QOS_CLASS_BACKGROUND, 0); }

bool set_time_slice(std::int64_t) { return false; }

ProcessState process_state(std::uint32_t pid, std::uint64_t) noexcept {
    int query[] = {CTL_KERN, KERN_PROC, KERN_PROC_PID, static_cast<int>(pid)};
    kinfo_proc info{};
    std::size_t bytes = sizeof info;
    if (sysctl(query, 4, &info, &bytes, nullptr, 0) != 0 || bytes == 0) return ProcessState::unknown;
    return info.kp_proc.p_stat == SSTOP ? ProcessState::stopped : ProcessState::running;
}

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
