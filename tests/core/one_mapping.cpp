// Gives all ends of a process that map one segment the same memory, so that a thread sanitizer can compare what they do.
//
// Each end maps the segment for itself, as ends of different processes do, and a sanitizer knows memory by its address:
// of two mappings it can never see that one thread reads what another is writing. So is part of what is mapped already. The linker (--wrap) puts these
// functions in the place of mmap, munmap and fcntl; the core is linked as it is. What they take away is that readers
// map the data part read-only.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <cstdlib>
#include <mutex>
#include <vector>

extern "C" {
void* __real_mmap(void* address, size_t bytes, int protection, int flags, int descriptor, off_t offset);
int __real_munmap(void* address, size_t bytes);
int __real_fcntl(int descriptor, int command, void* argument);
#if defined(__SANITIZE_THREAD__)
void __tsan_acquire(void* address);
void __tsan_release(void* address);
#endif
}

namespace {

struct Mapping {
    dev_t device;
    ino_t inode;
    off_t offset;
    size_t bytes;
    void* address;
    int users;

    char* begin() const { return static_cast<char*>(address); }
};

// Never destroyed: memory is mapped and unmapped until the very end of the process.
struct Mappings {
    std::mutex mutex;
    std::vector<Mapping> all;
};
Mappings& mappings() {
    static auto* const only = new Mappings;
    return *only;
}

// Locks of a file order what their holders do, but in the kernel, where a sanitizer cannot see it: who finds a lock free
// comes after whoever dropped it.
void order_by_lock([[maybe_unused]] int command, [[maybe_unused]] const struct flock& lock,
                   [[maybe_unused]] bool succeeded) {
#if defined(__SANITIZE_THREAD__)
    static char order;
    if (command == F_OFD_SETLK && succeeded && lock.l_type == F_WRLCK) __tsan_acquire(&order);
    if (command == F_OFD_GETLK && succeeded && lock.l_type == F_UNLCK) __tsan_acquire(&order);
    if (command == F_OFD_SETLK && !succeeded && lock.l_type == F_UNLCK) __tsan_release(&order);
#endif
}

}  // namespace

extern "C" {

void* __wrap_mmap(void* address, size_t bytes, int protection, int flags, int descriptor, off_t offset) {
    struct stat file{};
    if (descriptor == -1 || (flags & MAP_SHARED) == 0 || fstat(descriptor, &file) != 0)
        return __real_mmap(address, bytes, protection, flags, descriptor, offset);
    Mappings& known = mappings();
    const std::lock_guard guard(known.mutex);
    for (Mapping& mapping : known.all)
        if (mapping.device == file.st_dev && mapping.inode == file.st_ino && mapping.offset <= offset &&
            offset - mapping.offset + static_cast<off_t>(bytes) <= static_cast<off_t>(mapping.bytes)) {
            ++mapping.users;
            return mapping.begin() + (offset - mapping.offset);
        }
    void* made = __real_mmap(address, bytes, PROT_READ | PROT_WRITE, flags, descriptor, offset);
    if (made != MAP_FAILED) known.all.push_back({file.st_dev, file.st_ino, offset, bytes, made, 1});
    return made;
}

int __wrap_munmap(void* address, size_t bytes) {
    Mappings& known = mappings();
    const std::lock_guard guard(known.mutex);
    for (Mapping& mapping : known.all)
        if (mapping.begin() <= static_cast<char*>(address) &&
            static_cast<char*>(address) < mapping.begin() + mapping.bytes) {
            if (--mapping.users > 0) return 0;
            const Mapping last = mapping;
            mapping = known.all.back();
            known.all.pop_back();
            return __real_munmap(last.address, last.bytes);
        }
    return __real_munmap(address, bytes);
}

int __wrap_fcntl(int descriptor, int command, void* argument) {
    const bool locks = command == F_OFD_SETLK || command == F_OFD_GETLK;
    const auto* lock = static_cast<const struct flock*>(argument);
    if (locks) order_by_lock(command, *lock, false);
    const int result = __real_fcntl(descriptor, command, argument);
    if (locks && result == 0) order_by_lock(command, *lock, true);
    return result;
}

}  // extern "C"
