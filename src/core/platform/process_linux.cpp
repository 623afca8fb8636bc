// Linux: /proc, sched_getaffinity, sched_setattr, the cgroup's cpu.max (v2) or cpu.cfs_quota_us (v1), getrandom.
#include "platform/process.hpp"

#include <sched.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "errors.hpp"
#include "platform/lock_file.hpp"

namespace ringcast::platform {

namespace {

// The kernel's sched_attr, which C libraries before glibc 2.41 do not have.
struct Scheduling {
    std::uint32_t bytes;
    std::uint32_t policy;
    std::uint64_t flags;
    std::int32_t nice;
    std::uint32_t priority;
    std::uint64_t slice;  // sched_runtime: of a thread without a deadline, its slice
    std::uint64_t deadline;
    std::uint64_t period;
    std::uint32_t least_utilization;
    std::uint32_t most_utilization;
};
constexpr int kLooksAtThreads = 8;

// The group's path in the hierarchy that has `controller`: a line of /proc/self/cgroup, "0::/path" in version 2.
std::string group_path(const std::string& controller) {
    std::ifstream lines("/proc/self/cgroup");
    for (std::string line; std::getline(lines, line);) {
        const auto first = line.find(':');
        const auto second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        std::istringstream controllers(line.substr(first + 1, second - first - 1));
        bool matches = controller.empty() && second == first + 1;
        for (std::string one; std::getline(controllers, one, ',');) matches = matches || one == controller;
        if (matches) return line.substr(second + 1);
    }
    return {};
}

// The group itself and its ancestors up to the root of the hierarchy that is mounted at `mount`.
std::vector<std::filesystem::path> group_directories(const std::filesystem::path& mount, const std::string& group) {
    std::vector<std::filesystem::path> directories;
    for (std::filesystem::path path = group; !path.empty(); path = path.parent_path()) {
        directories.push_back(mount / path.relative_path());
        if (path == path.root_path()) break;
    }
    return directories;
}

// A number, or nothing: text that is none, such as "max". Not by the stream's own numbers, which fail where a program has two
// standard libraries.
std::optional<double> read_number(std::ifstream& file) {
    std::string text;
    if (!(file >> text)) return std::nullopt;
    char* end = nullptr;
    const double number = std::strtod(text.c_str(), &end);
    return end == text.c_str() + text.size() ? std::optional(number) : std::nullopt;
}

// The smallest quota of the group and its ancestors, in CPUs; a very large number if there is none.
double smallest_quota() {
    double least = 1e9;
    const auto take = [&least](std::optional<double> quota, std::optional<double> period) {
        if (quota && period && *quota > 0 && *period > 0) least = std::min(least, *quota / *period);
    };
    for (const auto& directory : group_directories("/sys/fs/cgroup", group_path(""))) {
        std::ifstream file(directory / "cpu.max");
        const auto quota = read_number(file);
        take(quota, read_number(file));
    }
    for (const auto& directory : group_directories("/sys/fs/cgroup/cpu", group_path("cpu"))) {
        std::ifstream quota(directory / "cpu.cfs_quota_us");
        std::ifstream period(directory / "cpu.cfs_period_us");
        take(read_number(quota), read_number(period));
    }
    return least;
}

}  // namespace

std::uint32_t process_id() noexcept { return static_cast<std::uint32_t>(getpid()); }
std::uint32_t user_id() noexcept { return geteuid(); }

std::uint64_t system_thread_id() noexcept {
    struct Known {
        std::uint32_t fork_generation;
        std::uint64_t id;
    };
    thread_local Known known{0, 0};
    if (known.id == 0 || known.fork_generation != fork_generation())
        known = {fork_generation(), static_cast<std::uint64_t>(syscall(SYS_gettid))};
    return known.id;
}

bool on_main_thread() noexcept { return system_thread_id() == process_id(); }

bool thread_lives(std::uint64_t system_id) noexcept {
    return syscall(SYS_tgkill, getpid(), static_cast<pid_t>(system_id), 0) == 0 || errno != ESRCH;
}

// May be refused (a sandbox): then the thread is one as others are.
void run_only_when_idle() noexcept {
    const sched_param none{};
    sched_setscheduler(0, SCHED_IDLE, &none);
}

bool set_time_slice(std::int64_t ns) {
    const auto slice = static_cast<std::uint64_t>(ns);
    // A thread that an untouched one starts meanwhile is found by another look.
    for (int looks = 0; looks < kLooksAtThreads; ++looks) {
        bool changed = false;
        std::error_code hidden;  // a sandbox without /proc
        const std::filesystem::directory_iterator threads("/proc/self/task", hidden);
        if (hidden) return false;
        for (const auto& entry : threads) {
            const long thread = std::strtol(entry.path().filename().c_str(), nullptr, 10);
            Scheduling now{};
            if (syscall(SYS_sched_getattr, thread, &now, sizeof now, 0) != 0) {
                if (errno == ESRCH) continue;  // it has ended
                return false;
            }
            if (now.policy != SCHED_OTHER && now.policy != SCHED_BATCH) continue;
            if (now.slice == 0) return false;  // before Linux 6.12
            if (now.slice == slice) continue;
            Scheduling wanted = now;
            wanted.slice = slice;
            if (syscall(SYS_sched_setattr, thread, &wanted, 0) != 0 && errno != ESRCH) return false;
            changed = true;
        }
        if (!changed || ns == 0) return true;
    }
    return true;
}

std::uint64_t pid_namespace() noexcept {
    struct stat info{};
    return stat("/proc/self/ns/pid", &info) == 0 ? info.st_ino : 0;
}

ProcessState process_state(std::uint32_t pid, std::uint64_t pid_namespace_of_pid) noexcept {
    if (pid_namespace_of_pid != pid_namespace()) return ProcessState::unknown;
    try {
        std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
        std::string line;
        if (!std::getline(file, line)) return ProcessState::unknown;
        // "77 (name) T 1 ...": the name may hold anything, its end is the last parenthesis.
        const auto end = line.rfind(')');
        if (end == std::string::npos || end + 2 >= line.size()) return ProcessState::unknown;
        const char state = line[end + 2];
        return state == 'T' || state == 't' ? ProcessState::stopped : ProcessState::running;
    } catch (const std::exception&) {
        return ProcessState::unknown;
    }
}

CpuMask allowed_cpus() noexcept {
    CpuMask mask{};
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) {  // more CPUs than the set holds: then there are plenty
        mask.fill(~std::uint64_t{0});
        return mask;
    }
    for (std::size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu)
        if (CPU_ISSET(cpu, &set)) {
            const std::size_t bit = std::min(cpu, mask.size() * 64 - 1);
            mask[bit / 64] |= std::uint64_t{1} << (bit % 64);
        }
    return mask;
}

std::uint32_t cpu_quota() noexcept {
    try {
        return static_cast<std::uint32_t>(std::max(1.0, std::min(smallest_quota(), 1e9)));
    } catch (const std::exception&) {  // an unreadable limit is no limit: this only tunes how long to spin
        return UINT32_MAX;
    }
}

std::uint64_t random_u64() {
    std::uint64_t value = 0;
    if (getrandom(&value, sizeof value, 0) != sizeof value) throw_system_error("reading random bytes");
    return value;
}

}  // namespace ringcast::platform
