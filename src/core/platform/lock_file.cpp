// Open file description locks (Linux 3.15, macOS 11), one byte each, and the fork handlers that guard them.
#include "platform/lock_file.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>
#include <cerrno>
#include <string>

#include "errors.hpp"

#if !defined(F_OFD_SETLK)
#error "ringcast needs open file description locks (F_OFD_SETLK) on this system"
#endif

namespace ringcast::platform {

namespace {
pthread_mutex_t registry_mutex = PTHREAD_MUTEX_INITIALIZER;

struct flock byte_lock(std::uint64_t byte) noexcept {
    struct flock lock{};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = static_cast<off_t>(byte);
    lock.l_len = 1;
    return lock;
}

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

    static void add(LockFile& file) noexcept {
        pthread_mutex_lock(&registry_mutex);
        file.next_ = first;
        if (first != nullptr) first->previous_ = &file;
        first = &file;
        pthread_mutex_unlock(&registry_mutex);
    }
    static void remove(LockFile& file) noexcept {
        pthread_mutex_lock(&registry_mutex);
        if (file.previous_ != nullptr) file.previous_->next_ = file.next_;
        if (file.next_ != nullptr) file.next_->previous_ = file.previous_;
        if (first == &file) first = file.next_;
        file.next_ = file.previous_ = nullptr;
        pthread_mutex_unlock(&registry_mutex);
    }
    static void before_fork() noexcept { pthread_mutex_lock(&registry_mutex); }
    static void after_fork_in_parent() noexcept { pthread_mutex_unlock(&registry_mutex); }
    static void after_fork_in_child() noexcept {
        for (LockFile* file = first; file != nullptr;) {
            LockFile* next = file->next_;
            ::close(file->descriptor_);
            file->descriptor_ = -1;
            file->next_ = file->previous_ = nullptr;
            file = next;
        }
        first = nullptr;
        fork_count.fetch_add(1, std::memory_order_relaxed);
        pthread_mutex_unlock(&registry_mutex);
    }
    static void install() noexcept {
        static const int installed = pthread_atfork(&LockRegistry::before_fork, &LockRegistry::after_fork_in_parent,
                                                    &LockRegistry::after_fork_in_child);
        (void)installed;
    }
};

void LockFile::adopt(int descriptor) {
    descriptor_ = descriptor;
    LockRegistry::install();
    LockRegistry::add(*this);
}

LockFile::~LockFile() { close(); }

void LockFile::close() noexcept {
    if (descriptor_ == -1) return;
    LockRegistry::remove(*this);
    ::close(descriptor_);
    descriptor_ = -1;
}

bool LockFile::try_lock(std::uint64_t byte) const {
    struct flock lock = byte_lock(byte);
    if (control(descriptor_, F_OFD_SETLK, lock) == 0) return true;
    if (errno == EAGAIN || errno == EACCES) return false;
    throw_system_error("locking byte " + std::to_string(byte) + " of a segment");
}

void LockFile::unlock(std::uint64_t byte) const noexcept {
    struct flock lock = byte_lock(byte);
    lock.l_type = F_UNLCK;
    control(descriptor_, F_OFD_SETLK, lock);  // fails only for a bad descriptor
}

bool LockFile::is_held_by_another(std::uint64_t byte) const {
    struct flock lock = byte_lock(byte);
    if (control(descriptor_, F_OFD_GETLK, lock) == 0) return lock.l_type != F_UNLCK;
    throw_system_error("asking who holds byte " + std::to_string(byte) + " of a segment");
}

}  // namespace ringcast::platform
