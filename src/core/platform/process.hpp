// What a process knows of itself: its pid and pid namespace, its threads, the CPUs it may use.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace ringcast::platform {

std::uint32_t process_id() noexcept;
std::uint32_t user_id() noexcept;
// The pid namespace's inode, for messages: pids of another namespace mean nothing here. 0 where there are none.
std::uint64_t pid_namespace() noexcept;
// Does a living process run, or has a signal or a debugger stopped it? For messages. A pid of another pid namespace, or
// a system that does not tell, is unknown.
enum class ProcessState { unknown, running, stopped };
ProcessState process_state(std::uint32_t pid, std::uint64_t pid_namespace_of_pid) noexcept;
inline bool is_this_process(std::uint32_t pid, std::uint64_t pid_namespace_of_pid) noexcept {
    return pid == process_id() && pid_namespace_of_pid == pid_namespace();
}
// How much a message says of a process: what is at hand, for a call that did not wait, or what the system says, too.
enum class Detail { at_hand, looked_up };
// "pid 7", "pid 7, stopped" or "pid 7, this process".
inline std::string describe_process(std::uint32_t pid, std::uint64_t pid_namespace_of_pid,
                                    Detail detail = Detail::looked_up) {
    const std::string text = "pid " + std::to_string(pid);
    if (detail == Detail::at_hand) return text;
    if (is_this_process(pid, pid_namespace_of_pid)) return text + ", this process";
    return text + (process_state(pid, pid_namespace_of_pid) == ProcessState::stopped ? ", stopped" : "");
}
// Never 0, unique among the living threads of this process.
inline std::uint64_t thread_id() noexcept { return reinterpret_cast<std::uint64_t>(__builtin_thread_pointer()); }
// The system's number for the calling thread, which a thread that begins soon after its end does not get.
std::uint64_t system_thread_id() noexcept;
// Is the calling thread the one that the process began with?
bool on_main_thread() noexcept;
// False if the thread of this process that had that number has ended. True where the system does not tell.
bool thread_lives(std::uint64_t system_id) noexcept;
// The calling thread gets what CPU time no other thread of the machine wants, from now on.
void run_only_when_idle() noexcept;
// How long the scheduler lets each thread of this process run at a time while others want its CPU, also those that its
// threads start from now on; 0: the system's own. A thread that wakes takes the CPU at once from one whose slice is longer.
// Nobody's share of the CPUs changes. False if the system has no such slices, or refuses to set them.
bool set_time_slice(std::int64_t ns);
// The CPUs this process may run on, by affinity, one bit each; CPUs beyond the mask share its last bit.
using CpuMask = std::array<std::uint64_t, 16>;
CpuMask allowed_cpus() noexcept;
// How many CPUs' time it may use by quota (a container's limit); at least 1.
std::uint32_t cpu_quota() noexcept;
std::uint64_t random_u64();

}  // namespace ringcast::platform
