#include "platform/refusals.hpp"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <cstring>

#include "errors.hpp"
#include "platform/process.hpp"
#include "platform/shared_file.hpp"
#include "units.hpp"

namespace ringcast::platform {

namespace {

constexpr const char* kMount = "mount -t tmpfs -o mode=1777 tmpfs ";
constexpr const char* kSmaller =
    "give the queue a smaller max_bytes (it takes four times that in addresses), or the pool a smaller capacity or "
    "fewer entries";

// UINT64_MAX: none.
template <class Resource>
std::uint64_t limit_of(Resource resource) noexcept {
    struct rlimit limit{};
    if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return UINT64_MAX;
    return static_cast<std::uint64_t>(limit.rlim_cur);
}

std::string too_many_files() {
    const std::uint64_t limit = limit_of(RLIMIT_NOFILE);
    return (limit == UINT64_MAX ? "this process has too many open files"
                                : "this process may have " + std::to_string(limit) + " open files (RLIMIT_NOFILE)") +
           "; each end of a queue keeps one, each worker of a group ten, each file of a tier two: raise the limit "
           "(ulimit -n) or close what is not needed";
}

std::string too_large() {
    const std::uint64_t limit = limit_of(RLIMIT_FSIZE);
    if (limit != UINT64_MAX)
        return "files of this process are limited to " + in_units(limit) +
               " (RLIMIT_FSIZE), and a queue's is sparse, but large: raise the limit (ulimit -f unlimited), or give "
               "the queue a smaller max_bytes (its file has four times that), or the pool a smaller capacity";
    return std::string(place()) + " takes no such large file: " + kMount + place() +
           ", or give the queue a smaller max_bytes, or the pool a smaller capacity";
}

std::string no_addresses() {
    const std::uint64_t limit = limit_of(RLIMIT_AS);
    if (limit != UINT64_MAX)
        return "the address space of this process is limited to " + in_units(limit) +
               " (RLIMIT_AS): raise the limit (ulimit -v unlimited), or " + kSmaller;
    return std::string("this process has no room for another mapping (vm.max_map_count, vm.overcommit_memory=2, a ") +
           "sandbox): raise what limits it, or " + kSmaller;
}

std::string no_locked_memory() {
    const std::uint64_t limit = limit_of(RLIMIT_MEMLOCK);
    return "this process locks what it maps (mlockall), and locked memory is limited" +
           (limit == UINT64_MAX ? std::string() : " to " + in_units(limit)) +
           " (RLIMIT_MEMLOCK): make or attach to queues before mlockall(MCL_FUTURE), raise the limit (ulimit -l), or " +
           kSmaller;
}

std::string no_thread() {
    const std::uint64_t limit = limit_of(RLIMIT_NPROC), addresses = limit_of(RLIMIT_AS);
    return "this user may have " + (limit == UINT64_MAX ? "so many" : std::to_string(limit)) +
           " processes and threads (ulimit -u), a control group fewer (pids.max), and each thread takes addresses, " +
           (addresses == UINT64_MAX ? "which are not limited here"
                                    : "of which this process has " + in_units(addresses)) +
           " (ulimit -v): raise what limits it, or end threads that are not needed";
}

std::string no_place() {
    struct stat info{};
    if (lstat(place(), &info) == 0 && !S_ISDIR(info.st_mode))
        return std::string(place()) +
               " is not a directory: remove it, make a directory and mount shared memory there: " + kMount + place();
    return std::string("there is no ") + place() + ": make the directory and mount shared memory there: " + kMount +
           place();
}

std::string not_permitted() {
    return "uid " + std::to_string(user_id()) + " may not make files in " + place() +
           ", or a sandbox forbids the call: it has to be writable for everybody: mount -o remount,mode=1777 " +
           place();
}

std::string unable() {
    return std::string(place()) + " has to be a tmpfs" + described_place() + ": " + kMount + place() +
           "; or a sandbox forbids the call";
}

std::string no_proc() { return "this needs /proc, which is not mounted: mount -t proc proc /proc"; }

// What is wrong with a directory that holds shared memory, on systems that have one.
std::string remedy_of_place(Asked asked, int error) {
    if (place()[0] != '/') return "";
    switch (error) {
        case EROFS:
            return std::string(place()) + " is mounted read-only: mount -o remount,rw " + place();
        case EDQUOT:
            return "the quota of uid " + std::to_string(user_id()) + " in " + place() +
                   " is used up: remove files there";
        case ENOTDIR:
            return no_place();
        case ENOSPC:
            return std::string(place()) +
                   " has no room or no inode left for another file: remove files there, or raise " +
                   "its limits (mount -o remount,size=...,nr_inodes=...)";
        case ENOENT:
            if (asked == Asked::second || asked == Asked::name) return no_proc();
            return no_place();
        case EISDIR:  // what kernels and file systems say that know no O_TMPFILE
        case ENOTSUP:
#if EOPNOTSUPP != ENOTSUP
        case EOPNOTSUPP:
#endif
        case EINVAL:
        case ENOSYS:
            return unable();
        case ENOLCK:
            return std::string(place()) + " must keep locks of open file descriptions, as a tmpfs does" +
                   described_place() + ": " + kMount + place();
        case EACCES:
        case EPERM:
            if (asked == Asked::file || asked == Asked::open) return not_permitted();
            return "a sandbox (seccomp, AppArmor) forbids it: allow the call, or run outside it";
        default:
            return "";
    }
}

}  // namespace

std::string remedy_of(Asked asked, int error) {
    switch (error) {
        case EMFILE:
            return too_many_files();
        case ENFILE:
            return "the machine has too many open files: raise the limit (sysctl fs.file-max)";
        case EFBIG:
            return too_large();
        case EAGAIN:
            if (asked == Asked::thread) return no_thread();
            return asked == Asked::mapping ? no_locked_memory() : "";
        case ENOMEM:
            return asked == Asked::mapping ? no_addresses() : "the kernel has no memory left for it";
        default:
            return remedy_of_place(asked, error);
    }
}

std::string remedy_of_file(const std::string& path, int error) {
    const std::size_t slash = path.find_last_of('/');
    const std::string folder = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
    switch (error) {
        case EFBIG:
            if (const std::uint64_t limit = limit_of(RLIMIT_FSIZE); limit != UINT64_MAX)
                return "files of this process are limited to " + in_units(limit) +
                       " (RLIMIT_FSIZE): raise the limit (ulimit -f unlimited), or give the file a smaller size";
            return "the file system of " + folder +
                   " takes no such large file: give it a smaller size, or another path";
        case ENOSPC: {
            struct statvfs status{};
            const bool known = statvfs(folder.c_str(), &status) == 0;
            return "the file system of " + folder + " has " +
                   (known ? in_units(std::uint64_t{status.f_bavail} * status.f_frsize) : std::string("too little")) +
                   " left: make room there, give the file a smaller size, or another path";
        }
        case EDQUOT:
            return "the quota of uid " + std::to_string(user_id()) + " in " + folder +
                   " is used up: make room there, give the file a smaller size, or another path";
        case EROFS:
            return "the file system of " + folder +
                   " is mounted read-only: remount it (mount -o remount,rw), or give another path";
        case ENOENT: {
            struct stat status{};
            if (lstat(path.c_str(), &status) == 0)
                return "it is a link to what is not there: make that folder, or give another path";
            if (stat(folder.c_str(), &status) == 0) return "no file can be made in " + folder + ": give another path";
            return "there is no folder " + folder + ": make it";
        }
        case ELOOP:
            return "it is a link that leads nowhere: give another path";
        case ENXIO:
            return "it is no regular file: give another path";
        case ENOTDIR:
            return folder + " is not a folder: give another path";
        case EISDIR:
            return "it is a folder: give the path of a file in it";
        case EACCES:
        case EPERM:
            return "uid " + std::to_string(user_id()) +
                   " may not write it, or make files in its folder, or a sandbox forbids it: change their mode, or "
                   "give another path";
        case EMFILE:
        case ENFILE:
        case ENOMEM:
            return remedy_of(Asked::open, error);
        default:
            return "";
    }
}

void throw_refused(Asked asked, const std::string& what, int error) {
    const std::string known = remedy_of(asked, error);
    throw Error(ErrorCode::system, what + ": " + std::strerror(error) + (known.empty() ? "" : "; ") + known, error);
}

bool exceeds_file_size_limit(std::uint64_t bytes) noexcept { return bytes > limit_of(RLIMIT_FSIZE); }

}  // namespace ringcast::platform
