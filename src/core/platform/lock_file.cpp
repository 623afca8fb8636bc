// Open file description locks (Linux 3.15, macOS 11), one byte each, and the fork handlers that guard them.
#include "platform/lock_file.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "platform/refusals.hpp"

#if !defined(F_OFD_SETLK)
#error "ringcast needs open file description locks (F_OFD_SETLK) on this system"
#endif

namespace ringcast::platform {

namespace {
constexpr int kNone = -1;
constexpr int kLost = -2;  // closed by somebody else

pthread_mutex_t registry_mutex = PTHREAD_MUTEX_INITIALIZER;

struct flock range_lock(std::uint64_t first, std::uint64_t last) noexcept {
    struct flock lock{};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = static_cast<off_t>(first);
    lock.l_len = static_cast<off_t>(last - first);
    return lock;
}
struct flock byte_lock(std::uint64_t byte) noexcept { return range_lock(byte, byte + 1); }

int control(int descriptor, int command, struct flock& lock) noexcept {
    int result = 0;
    do result = fcntl(descriptor, command, &lock);
    while (result == -1 && errno == EINTR);
    return result;
}
}  // namespace

// All lock files of this process. Fork takes the mutex, so that the child finds the list whole.
struct LockRegistry {
    static inline LockFile* first = nullptr;
    static inline std::vector<LockFile*> by_descriptor;  // a process may have thousands
    static inline std::unordered_set<std::string> vouched_for;

    class Locked {
    public:
        Locked() noexcept { pthread_mutex_lock(&registry_mutex); }
        ~Locked() { pthread_mutex_unlock(&registry_mutex); }
        Locked(const Locked&) = delete;
        Locked& operator=(const Locked&) = delete;
    };

    static void drop_voucher(LockFile& file) noexcept {
        if (std::exchange(file.vouches_, false)) vouched_for.erase(file.name_);
    }
    static void add(LockFile& file) {
        const Locked locked;
        // A number that the kernel has given away again was closed under its former owner, who must not believe that it
        // is his still because it leads to the same file.
        const auto descriptor = static_cast<std::size_t>(file.descriptor_.load(std::memory_order_relaxed));
        if (descriptor >= by_descriptor.size()) by_descriptor.resize(descriptor + 1);
        if (LockFile* former = std::exchange(by_descriptor[descriptor], &file); former != nullptr)
            former->descriptor_.store(kLost, std::memory_order_relaxed);
        file.next_ = first;
        if (first != nullptr) first->previous_ = &file;
        first = &file;
    }
    static void remove(LockFile& file) noexcept {
        const Locked locked;
        drop_voucher(file);
        if (const int descriptor = file.descriptor_.load(std::memory_order_relaxed); descriptor >= 0)
            by_descriptor[static_cast<std::size_t>(descriptor)] = nullptr;
        if (file.previous_ != nullptr) file.previous_->next_ = file.next_;
        if (file.next_ != nullptr) file.next_->previous_ = file.previous_;
        if (first == &file) first = file.next_;
        file.next_ = file.previous_ = nullptr;
    }
    static void before_fork() noexcept { pthread_mutex_lock(&registry_mutex); }
    static void after_fork_in_parent() noexcept { pthread_mutex_unlock(&registry_mutex); }
    static void after_fork_in_child() noexcept {
        for (LockFile* file = first; file != nullptr;) {
            LockFile* next = file->next_;
            if (const int descriptor = file->descriptor_if_ours(); descriptor != -1) ::close(descriptor);
            file->descriptor_.store(kNone, std::memory_order_relaxed);
            file->next_ = file->previous_ = nullptr;
            file->vouches_ = false;
            file = next;
        }
        first = nullptr;
        by_descriptor.clear();
        vouched_for.clear();
        fork_count.fetch_add(1, std::memory_order_relaxed);
        pthread_mutex_unlock(&registry_mutex);
    }
    static void install() noexcept {
        static const int installed = pthread_atfork(&LockRegistry::before_fork, &LockRegistry::after_fork_in_parent,
                                                    &LockRegistry::after_fork_in_child);
        (void)installed;
    }
};

void LockFile::vouch() {
    const LockRegistry::Locked locked;
    LockRegistry::vouched_for.insert(name_);
    vouches_ = true;
}

void LockFile::vouch_no_more() noexcept {
    const LockRegistry::Locked locked;
    LockRegistry::drop_voucher(*this);
}

bool is_vouched_for(const std::string& name) {
    const LockRegistry::Locked locked;
    return LockRegistry::vouched_for.contains(name);
}

void LockFile::adopt(int descriptor, const std::string& name) {
    struct stat info{};
    if (fstat(descriptor, &info) == -1) {
        const int error = errno;
        ::close(descriptor);
        throw_system_error("looking at the locks of segment '" + name + "'", error);
    }
    name_ = name;
    device_ = static_cast<std::uint64_t>(info.st_dev);
    inode_ = static_cast<std::uint64_t>(info.st_ino);
    descriptor_.store(descriptor, std::memory_order_relaxed);
    LockRegistry::install();
    try {
        LockRegistry::add(*this);
    } catch (...) {
        descriptor_.store(kNone, std::memory_order_relaxed);
        ::close(descriptor);
        throw;
    }
}

LockFile::~LockFile() { close(); }

void LockFile::close() noexcept {
    if (descriptor_.load(std::memory_order_relaxed) == kNone) return;
    LockRegistry::remove(*this);
    if (const int descriptor = descriptor_if_ours(); descriptor != -1) ::close(descriptor);
    descriptor_.store(kNone, std::memory_order_relaxed);
}

int LockFile::look() const noexcept {
    const int descriptor = descriptor_.load(std::memory_order_relaxed);
    if (descriptor < 0) return EBADF;
    struct stat info{};
    if (fstat(descriptor, &info) == -1) return errno;
    const bool ours =
        static_cast<std::uint64_t>(info.st_dev) == device_ && static_cast<std::uint64_t>(info.st_ino) == inode_;
    return ours ? 0 : EBADF;
}

int LockFile::descriptor_if_ours() const noexcept {
    return look() == EBADF ? -1 : descriptor_.load(std::memory_order_relaxed);  // other errors say nothing against it
}

int LockFile::descriptor() const {
    const int error = look();
    if (error == 0) return descriptor_.load(std::memory_order_relaxed);
    const std::string whose = "segment '" + name_ + "'";
    if (error != EBADF) throw_system_error("looking at the locks of " + whose, error);
    if (descriptor_.load(std::memory_order_relaxed) == kNone)
        throw Error(ErrorCode::system,
                    whose + " is closed, or was opened by a parent process and not by this forked child: attach here",
                    EBADF);
    throw Error(
        ErrorCode::system,
        "the descriptor of " + whose +
            " was closed by other code of this process, such as a daemonizer's os.closerange, and its locks are "
            "lost with it: others take this end for dead. Daemonize, and close what was inherited, before making "
            "or attaching to queues; then make or attach again",
        EBADF);
}

bool LockFile::try_lock(std::uint64_t byte) const { return try_lock(byte, byte + 1); }

bool LockFile::try_lock(std::uint64_t first, std::uint64_t last) const {
    struct flock lock = range_lock(first, last);
    if (control(descriptor(), F_OFD_SETLK, lock) == 0) return true;
    if (errno == EAGAIN || errno == EACCES) return false;
    throw_refused(Asked::lock, "locking byte " + std::to_string(first) + " of segment '" + name_ + "'");
}

bool LockFile::try_share(std::uint64_t byte) const {
    struct flock lock = byte_lock(byte);
    lock.l_type = F_RDLCK;
    if (control(descriptor(), F_OFD_SETLK, lock) == 0) return true;
    if (errno == EAGAIN || errno == EACCES) return false;
    throw_refused(Asked::lock, "sharing byte " + std::to_string(byte) + " of segment '" + name_ + "'");
}

void LockFile::unlock(std::uint64_t byte) const noexcept {
    const int ours = descriptor_if_ours();
    if (ours == -1) return;  // the lock went with the descriptor
    struct flock lock = byte_lock(byte);
    lock.l_type = F_UNLCK;
    // To split a range of neighbouring bytes the kernel needs a piece of memory, which it may lack for a moment.
    constexpr int kAttempts = 3;
    for (int attempt = 0; attempt < kAttempts && control(ours, F_OFD_SETLK, lock) == -1 && errno == ENOLCK; ++attempt) {
    }
}

int open_again(int descriptor) noexcept {
#if defined(F_GETPATH)
    char path[PATH_MAX];
    if (fcntl(descriptor, F_GETPATH, path) == -1) return -1;
#else
    char path[32];
    std::snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
#endif
    int opened = -1;
    do opened = ::open(path, O_RDWR | O_CLOEXEC);
    while (opened == -1 && errno == EINTR);
    return opened;
}

bool try_lock_on(int descriptor, std::uint64_t byte, Sharing sharing) noexcept {
    struct flock lock = byte_lock(byte);
    if (sharing == Sharing::shared) lock.l_type = F_RDLCK;
    return control(descriptor, F_OFD_SETLK, lock) == 0;
}

bool LockFile::is_held_by_another(std::uint64_t byte) const { return is_held_by_another(byte, byte + 1); }

bool LockFile::is_held_by_another(std::uint64_t first, std::uint64_t last) const {
    struct flock lock = range_lock(first, last);
    if (control(descriptor(), F_OFD_GETLK, lock) == 0) return lock.l_type != F_UNLCK;
    throw_refused(Asked::lock, "asking who holds byte " + std::to_string(first) + " of segment '" + name_ + "'");
}

}  // namespace ringcast::platform
