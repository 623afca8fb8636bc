// Lock bytes: the kernel's own record of who is alive.
//
// A LockFile is a descriptor of its own that is never mapped: a mapping would keep the open file description, and with
// it every lock, alive in forked children. It is closed in each forked child before any other code of ours runs there.
// A lock is dropped by the kernel when its holder dies, however it dies, and is seen across pid namespaces.
#pragma once

#include <atomic>
#include <cstdint>

namespace ringcast::platform {

class LockFile {
public:
    LockFile() = default;
    explicit LockFile(int descriptor) { adopt(descriptor); }
    ~LockFile();
    LockFile(const LockFile&) = delete;
    LockFile& operator=(const LockFile&) = delete;

    void adopt(int descriptor);               // takes it over; only while it has none
    bool try_lock(std::uint64_t byte) const;  // false: another holder has it
    void unlock(std::uint64_t byte) const noexcept;
    bool is_held_by_another(std::uint64_t byte) const;  // our own locks do not count
    void close() noexcept;
    int descriptor() const noexcept { return descriptor_; }  // -1 once closed, and in a forked child

private:
    friend struct LockRegistry;
    int descriptor_ = -1;
    LockFile* next_ = nullptr;
    LockFile* previous_ = nullptr;
};

// How many forks lie between this process and the one that first loaded the library. An end remembers the value it was
// made under; another value means that it belongs to an ancestor.
inline std::atomic<std::uint32_t> fork_count{0};
inline std::uint32_t fork_generation() noexcept { return fork_count.load(std::memory_order_relaxed); }

}  // namespace ringcast::platform
