// Linux: /dev/shm, which is where shm_open puts its names.
// A file starts without a name (O_TMPFILE) and gets it with linkat, complete: a kill before that leaves nothing.
#include "platform/shared_file.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "errors.hpp"
#include "platform/refusals.hpp"

namespace ringcast::platform {

namespace {
constexpr const char* kPlace = "/dev/shm";

// Of a kernel with pages of 4 KiB.
constexpr std::uint64_t kHugePage = std::uint64_t{2} << 20;
// Newer than some C libraries: Linux 5.14 and 6.1.
constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE
constexpr int kCollapse = 25;       // MADV_COLLAPSE

std::string path_of(const std::string& name) { return std::string(kPlace) + "/" + name; }
std::string path_of(int descriptor) { return "/proc/self/fd/" + std::to_string(descriptor); }

template <class Call>
int retried(Call call) {
    int result = 0;
    do result = call();
    while (result == -1 && errno == EINTR);
    return result;
}

bool has_place() noexcept {
    struct stat info{};
    return stat(kPlace, &info) != 0 ? errno != ENOENT && errno != ENOTDIR : S_ISDIR(info.st_mode);
}

// The file systems that people mount there, by their magic numbers.
const char* name_of_file_system(std::uint64_t magic) noexcept {
    switch (magic) {
        case 0x858458f6:
            return "ramfs";
        case 0x794c7630:
            return "overlayfs";
        case 0xef53:
            return "ext file system";
        case 0x58465342:
            return "XFS";
        case 0x9123683e:
            return "Btrfs";
        case 0x6969:
            return "NFS";
        case 0x65735546:
            return "FUSE file system";
        case 0x01021997:
            return "9p file system";
        default:
            return nullptr;
    }
}
}  // namespace

std::string described_place() {
    constexpr std::uint64_t kTmpfs = 0x01021994;
    struct statfs info{};
    if (statfs(kPlace, &info) != 0) return "";
    const auto magic = static_cast<std::uint64_t>(info.f_type) & 0xffff'ffff;
    if (magic == kTmpfs) return "";
    const char* name = name_of_file_system(magic);
    char number[40];
    std::snprintf(number, sizeof number, "file system of type 0x%llx", static_cast<unsigned long long>(magic));
    return std::string(", and is one of another kind (") + (name != nullptr ? name : number) + ")";
}

SharedFile::SharedFile(SharedFile&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), name_(std::move(other.name_)) {}
SharedFile& SharedFile::operator=(SharedFile&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    name_.swap(other.name_);
    return *this;
}
SharedFile::~SharedFile() { close(); }
void SharedFile::close() noexcept {
    if (descriptor_ != -1) ::close(std::exchange(descriptor_, -1));
}

SharedFile SharedFile::create(const std::string& name, std::uint64_t bytes) {
    SharedFile file(retried([] { return ::open(kPlace, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600); }));
    if (file.descriptor_ == -1)
        throw_refused(Asked::file, "making the unnamed file for segment '" + name + "' in " + kPlace);
    file.name_ = name;
    if (fchmod(file.descriptor_, 0600) == -1) throw_refused(Asked::size, "setting mode 0600 of segment '" + name + "'");
    const bool forbidden = exceeds_file_size_limit(bytes);  // else SIGXFSZ, where it is not ignored
    if (forbidden || retried([&] { return ftruncate(file.descriptor_, static_cast<off_t>(bytes)); }) == -1)
        throw_refused(Asked::size, "sizing segment '" + name + "' to " + std::to_string(bytes) + " bytes",
                      forbidden ? EFBIG : errno);
    return file;
}

void SharedFile::link(const std::string& name) {
    const std::string from = path_of(descriptor_);
    const std::string to = path_of(name);
    if (linkat(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), AT_SYMLINK_FOLLOW) == 0) return;
    if (errno == EEXIST)
        throw Error(ErrorCode::segment_exists, "a segment named '" + name + "' exists already", EEXIST);
    throw_refused(Asked::name, "giving a segment its name '" + to + "'");
}

SharedFile SharedFile::open(const std::string& name) {
    const std::string path = path_of(name);
    SharedFile file(retried([&] { return ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK); }));
    if (file.descriptor_ != -1) {
        file.name_ = name;
        return file;
    }
    const int error = errno;
    if (error == ENOENT && has_place())
        throw Error(ErrorCode::segment_not_found, "there is no segment '" + name + "' in " + kPlace, ENOENT);
    if (error == ELOOP)
        throw Error(ErrorCode::segment_permission, "segment '" + name + "' is a symbolic link, which is not followed",
                    ELOOP);
    if (error == EACCES || error == EPERM) {
        struct stat info{};
        const bool known = lstat(path.c_str(), &info) == 0;
        const std::string owner = known ? " (it belongs to uid " + std::to_string(info.st_uid) + ")" : std::string();
        const bool foreign = known && info.st_uid != geteuid();
        throw Error(
            ErrorCode::segment_permission,
            "segment '" + name + "' may not be opened by uid " + std::to_string(geteuid()) + owner +
                (foreign ? ": only a queue's own user may attach; a process that changes its user (setuid) has to "
                           "attach before that, or the queue to be made after it"
                         : ": its mode, that of " + std::string(kPlace) + ", or a sandbox forbids it"),
            error);
    }
    throw_refused(Asked::open, "opening segment '" + name + "'", error);
}

FileFacts SharedFile::facts() const {
    struct stat info{};
    if (fstat(descriptor_, &info) == -1) throw_system_error("looking at segment '" + name_ + "'");
    return FileFacts{.bytes = static_cast<std::uint64_t>(info.st_size),
                     .committed = static_cast<std::uint64_t>(info.st_blocks) * 512,
                     .device = info.st_dev,
                     .inode = info.st_ino,
                     .owner = info.st_uid,
                     .mode = info.st_mode & 07777,
                     .regular = S_ISREG(info.st_mode)};
}

void SharedFile::read(void* to, std::size_t bytes) const {
    const auto got = pread(descriptor_, to, bytes, 0);  // of shared memory it is never interrupted, nor short
    if (got == -1) throw_system_error("reading a segment");
    if (static_cast<std::size_t>(got) != bytes) throw_system_error("reading a segment", EIO);
}

void* SharedFile::map(std::uint64_t offset, std::uint64_t bytes, bool writable) const {
    void* address = mmap(nullptr, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_NORESERVE,
                         descriptor_, static_cast<off_t>(offset));
    if (address == MAP_FAILED)
        throw_refused(Asked::mapping, "mapping " + std::to_string(bytes) + " bytes of segment '" + name_ + "'");
    return address;
}

// A huge page is mapped as such where address and offset are equal modulo its size.
void* SharedFile::map_large(std::uint64_t offset, std::uint64_t bytes, bool writable) const {
    void* const found = bytes < kHugePage ? MAP_FAILED
                                          : mmap(nullptr, bytes + kHugePage, PROT_NONE,
                                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) return map(offset, bytes, writable);
    auto* const room = static_cast<std::byte*>(found);
    const std::uint64_t before = (offset - reinterpret_cast<std::uintptr_t>(room)) % kHugePage;
    void* const address = mmap(room + before, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ,
                               MAP_SHARED | MAP_NORESERVE | MAP_FIXED, descriptor_, static_cast<off_t>(offset));
    if (address == MAP_FAILED) {
        munmap(room, bytes + kHugePage);
        return map(offset, bytes, writable);
    }
    if (before > 0) munmap(room, before);
    if (before < kHugePage) munmap(room + before + bytes, kHugePage - before);
    madvise(address, bytes, MADV_HUGEPAGE);  // refused by kernels without them, and no worse then
    return address;
}

// Locked memory (mlockall) is filled by the kernel where it may be written to, here with copies of its own: so it is
// unlocked before.
void* SharedFile::map_private(std::uint64_t bytes, std::uint64_t offset) const {
    void* address =
        mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE, descriptor_, static_cast<off_t>(offset));
    if (address != MAP_FAILED) {
        munlock(address, bytes);
        if (mprotect(address, bytes, PROT_READ | PROT_WRITE) == 0) {
            exclude_from_core_dumps(address, bytes);
            return address;
        }
        const int error = errno;
        munmap(address, bytes);
        errno = error;
    }
    throw_refused(Asked::mapping,
                  "mapping " + std::to_string(bytes) + " bytes of segment '" + name_ + "' privately (zero_copy)");
}

int SharedFile::open_for_locks(const std::string& name) const {
    const std::string path = path_of(descriptor_);
    const int descriptor = retried([&] { return ::open(path.c_str(), O_RDWR | O_CLOEXEC); });
    if (descriptor == -1) throw_refused(Asked::second, "opening segment '" + name + "' a second time for its locks");
    return descriptor;
}

int SharedFile::into_locks(const std::string&) && { return std::exchange(descriptor_, -1); }

// A signal makes the kernel undo an unfinished fallocate. Smaller and smaller pieces are tried then: where signals come
// faster than the whole can be had, the same call again would never end.
bool reserve(int descriptor, std::uint64_t offset, std::uint64_t bytes) {
    std::uint64_t done = 0;
    std::uint64_t piece = bytes;
    while (done < bytes) {
        const std::uint64_t size = std::min(piece, bytes - done);
        if (fallocate(descriptor, 0, static_cast<off_t>(offset + done), static_cast<off_t>(size)) == 0) {
            done += size;
            continue;
        }
        const int error = errno;
        if (error == EINTR) {
            const std::uint64_t page = page_bytes();
            piece = std::max(size / 2 / page * page, page);
            continue;
        }
        if (done > 0) give_back(descriptor, offset, done);
        if (error == ENOSPC || error == ENOMEM) return false;
        throw_refused(Asked::memory, "reserving " + std::to_string(bytes) + " bytes of shared memory", error);
    }
    return true;
}

bool give_back(int descriptor, std::uint64_t offset, std::uint64_t bytes) noexcept {
    return retried([&] {
               return fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                                static_cast<off_t>(bytes));
           }) == 0;
}

bool named_from_creation() noexcept { return false; }

int unlink_name(const std::string& name) noexcept {
    return ::unlink(path_of(name).c_str()) == 0 || errno == ENOENT ? 0 : errno;
}

bool name_refers_to(const std::string& name, const FileFacts& facts) noexcept {
    struct stat info{};
    return lstat(path_of(name).c_str(), &info) == 0 && info.st_dev == facts.device && info.st_ino == facts.inode;
}

std::vector<std::string> list_names(const std::string& prefix) {
    std::vector<std::string> names;
    DIR* directory = opendir(kPlace);
    if (directory == nullptr) throw_refused(Asked::open, std::string("listing ") + kPlace);
    while (const dirent* entry = readdir(directory))
        if (is_listed(entry->d_name, prefix)) names.emplace_back(entry->d_name);
    closedir(directory);
    std::sort(names.begin(), names.end());
    return names;
}

void unmap(void* address, std::uint64_t bytes) noexcept { munmap(address, bytes); }

// Huge pages first, out of the small ones that reserving has taken. They are a wish: the kernel may know none, forbid them
// here, or find no room for one. Others' use of the range waits while its bytes move.
void populate(std::byte* begin, std::uint64_t bytes) noexcept {
    madvise(begin, bytes, kCollapse);
    if (retried([&] { return madvise(begin, bytes, kPopulateWrite); }) != 0) touch_pages(begin, bytes);
}

void exclude_from_core_dumps(void* address, std::uint64_t bytes) noexcept { madvise(address, bytes, MADV_DONTDUMP); }
std::uint64_t page_bytes() noexcept { return static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)); }

std::uint64_t free_bytes() noexcept {
    struct statvfs info{};
    if (statvfs(kPlace, &info) == -1 || info.f_blocks == 0) return UINT64_MAX;  // a tmpfs without a limit has no blocks
    return static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
}

const char* place() noexcept { return kPlace; }

}  // namespace ringcast::platform
