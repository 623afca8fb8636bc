// What a process knows of itself: its pid and pid namespace, its threads, the CPUs it may use.
#pragma once

#include <array>
#include <cstdint>

namespace ringcast::platform {

std::uint32_t process_id() noexcept;
std::uint32_t user_id() noexcept;
// The pid namespace's inode, for messages: pids of another namespace mean nothing here. 0 where there are none.
std::uint64_t pid_namespace() noexcept;
// Never 0, unique among the living threads of this process.
inline std::uint64_t thread_id() noexcept { return reinterpret_cast<std::uint64_t>(__builtin_thread_pointer()); }
// The CPUs this process may run on, by affinity, one bit each; CPUs beyond the mask share its last bit.
using CpuMask = std::array<std::uint64_t, 16>;
CpuMask allowed_cpus() noexcept;
// How many CPUs' time it may use by quota (a container's limit); at least 1.
std::uint32_t cpu_quota() noexcept;
std::uint64_t random_u64();

}  // namespace ringcast::platform
