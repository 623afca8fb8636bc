// Lock bytes: the kernel's own record of who is alive.
//
// A LockFile is a descriptor of its own that is never mapped: a mapping would keep the open file description, and with
// it every lock, alive in forked children. It is closed in each forked child before any other code of ours runs there.
// A lock is dropped by the kernel when its holder dies, however it dies, and is seen across pid namespaces.
//
// Other code of the process may close the descriptor (daemonizers close all they did not open), and the number may then
// lead to a file of the user's. So before each use it is proved to lead to our file still: nothing foreign is ever
// changed, asked, unlocked or closed. The locks are lost with the descriptor, and that is an error, not an answer.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace ringcast::platform {

class LockFile {
public:
    LockFile() = default;
    explicit LockFile(int descriptor, const std::string& name = {}) { adopt(descriptor, name); }
    ~LockFile();
    LockFile(const LockFile&) = delete;
    LockFile& operator=(const LockFile&) = delete;

    // Takes it over; only while it has none. `name` is the file's, for messages.
    void adopt(int descriptor, const std::string& name);
    bool try_lock(std::uint64_t byte) const;  // false: another holder has it
    // All bytes of [first, last), or none.
    bool try_lock(std::uint64_t first, std::uint64_t last) const;
    // Along with others that share it; false: somebody holds it alone.
    bool try_share(std::uint64_t byte) const;
    void unlock(std::uint64_t byte) const noexcept;
    bool is_held_by_another(std::uint64_t byte) const;  // our own locks do not count
    // Any byte of [first, last).
    bool is_held_by_another(std::uint64_t first, std::uint64_t last) const;
    void close() noexcept;
    // Until it is closed, or told so, this process says of the file's name that its owner lives: nobody here needs to ask
    // the kernel.
    void vouch();
    void vouch_no_more() noexcept;
    // For calls that change the file. Throws if it was closed, by whomever, or belongs to a forked child's parent.
    int descriptor() const;
    // -1 unless it leads to our file now.
    int descriptor_if_ours() const noexcept;

private:
    friend struct LockRegistry;
    // 0, or the errno of not knowing; `lost` is EBADF.
    int look() const noexcept;

    std::atomic<int> descriptor_{-1};  // all relaxed: a number that its owner, or a fork, sets
    std::uint64_t device_ = 0;
    std::uint64_t inode_ = 0;
    std::string name_;
    bool vouches_ = false;
    LockFile* next_ = nullptr;
    LockFile* previous_ = nullptr;
};

// Does a LockFile of this process vouch for the owner of `name`?
bool is_vouched_for(const std::string& name);

// For locks that a forked child is to hold for as long as it has the descriptor: another description of the file of
// `descriptor`, -1 if there can be none. Closed by exec.
int open_again(int descriptor) noexcept;
// Takes `byte` as its only holder, or along with others that share it; also turns the one into the other.
enum class Sharing { exclusive, shared };
bool try_lock_on(int descriptor, std::uint64_t byte, Sharing sharing) noexcept;

// How many forks lie between this process and the one that first loaded the library. An end remembers the value it was
// made under; another value means that it belongs to an ancestor.
inline std::atomic<std::uint32_t> fork_count{0};
inline std::uint32_t fork_generation() noexcept { return fork_count.load(std::memory_order_relaxed); }

}  // namespace ringcast::platform
