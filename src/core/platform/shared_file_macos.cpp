// macOS: POSIX shared memory objects. They have no directory and take no locks, so each has a companion file that
// carries its lock bytes and makes it listable: $TMPDIR/ringcast-UID/NAME, in a directory of mode 0700.
#include "platform/shared_file.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "errors.hpp"
#include "platform/refusals.hpp"

namespace ringcast::platform {

namespace {
std::string object_of(const std::string& name) { return "/" + name; }

std::string companion_directory() {
    const char* base = std::getenv("TMPDIR");
    std::string directory = std::string(base != nullptr && *base != '\0' ? base : "/tmp");
    if (directory.back() != '/') directory += '/';
    directory += "ringcast-" + std::to_string(geteuid());
    if (mkdir(directory.c_str(), 0700) == -1 && errno != EEXIST) throw_system_error("making " + directory);
    struct stat info{};
    if (lstat(directory.c_str(), &info) == -1 || !S_ISDIR(info.st_mode) || info.st_uid != geteuid() ||
        (info.st_mode & 077) != 0)
        throw Error(ErrorCode::segment_permission,
                    directory + " is not a private directory of uid " + std::to_string(geteuid()));
    return directory;
}
std::string companion_of(const std::string& name) { return companion_directory() + "/" + name; }
}  // namespace

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
    SharedFile file(shm_open(object_of(name).c_str(), O_CREAT | O_EXCL | O_RDWR, 0600));
    if (file.descriptor_ == -1) {
        if (errno == EEXIST)
            throw Error(ErrorCode::segment_exists, "a segment named '" + name + "' exists already", EEXIST);
        throw_refused(Asked::file, "making segment '" + name + "'");
    }
    file.name_ = name;
    const bool forbidden = exceeds_file_size_limit(bytes);
    if (forbidden || ftruncate(file.descriptor_, static_cast<off_t>(bytes)) == -1) {
        const int error = forbidden ? EFBIG : errno;
        unlink_name(name);
        throw_refused(Asked::size, "sizing segment '" + name + "' to " + std::to_string(bytes) + " bytes", error);
    }
    return file;
}

void SharedFile::link(const std::string&) {}  // it has had its name since `create`

SharedFile SharedFile::open(const std::string& name) {
    SharedFile file(shm_open(object_of(name).c_str(), O_RDWR, 0));
    if (file.descriptor_ != -1) {
        file.name_ = name;
        return file;
    }
    if (errno == ENOENT) throw Error(ErrorCode::segment_not_found, "there is no segment '" + name + "'", ENOENT);
    if (errno == EACCES || errno == EPERM)
        throw Error(ErrorCode::segment_permission, "segment '" + name + "' belongs to another user", errno);
    throw_refused(Asked::open, "opening segment '" + name + "'");
}

FileFacts SharedFile::facts() const {
    struct stat info{};
    if (fstat(descriptor_, &info) == -1) throw_system_error("looking at segment '" + name_ + "'");
    // The kernel reports sizes rounded up to pages here, and no inode: the segment's epoch tells files apart.
    return FileFacts{.bytes = static_cast<std::uint64_t>(info.st_size),
                     .committed = static_cast<std::uint64_t>(info.st_size),
                     .device = static_cast<std::uint64_t>(info.st_dev),
                     .inode = static_cast<std::uint64_t>(info.st_ino),
                     .owner = info.st_uid,
                     .mode = static_cast<std::uint32_t>(info.st_mode & 07777),
                     .regular = true};
}

void SharedFile::read(void* to, std::size_t bytes) const {
    void* start = map(0, bytes, false);  // shared memory objects know no read(2) here
    std::memcpy(to, start, bytes);
    unmap(start, bytes);
}

void* SharedFile::map(std::uint64_t offset, std::uint64_t bytes, bool writable) const {
    void* address = mmap(nullptr, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, descriptor_,
                         static_cast<off_t>(offset));
    if (address == MAP_FAILED)
        throw_refused(Asked::mapping, "mapping " + std::to_string(bytes) + " bytes of segment '" + name_ + "'");
    return address;
}

void* SharedFile::map_large(std::uint64_t offset, std::uint64_t bytes, bool writable) const {
    return map(offset, bytes, writable);
}

// macOS cannot make a private mapping forget what was written to it, so there is none: what would use it copies.
void* SharedFile::map_private(std::uint64_t, std::uint64_t) const { return nullptr; }

int SharedFile::open_for_locks(const std::string& name) const {
    const std::string path = companion_of(name);
    const int descriptor = ::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (descriptor == -1) throw_refused(Asked::second, "opening the lock file " + path + " of segment '" + name + "'");
    return descriptor;
}

int SharedFile::into_locks(const std::string& name) && { return open_for_locks(name); }

bool reserve(int, std::uint64_t, std::uint64_t) { return true; }  // backed by the pager: no file system to run full

bool give_back(int, std::uint64_t, std::uint64_t) noexcept { return false; }

bool named_from_creation() noexcept { return true; }

int unlink_name(const std::string& name) noexcept {
    const int error = shm_unlink(object_of(name).c_str()) == 0 || errno == ENOENT ? 0 : errno;
    try {
        ::unlink(companion_of(name).c_str());
    } catch (const Error&) {  // no private directory, so no companion either
    }
    return error;
}

bool name_refers_to(const std::string& name, const FileFacts& facts) noexcept {
    const int descriptor = shm_open(object_of(name).c_str(), O_RDWR, 0);
    if (descriptor == -1) return false;
    struct stat info{};
    const bool same = fstat(descriptor, &info) == 0 && static_cast<std::uint64_t>(info.st_ino) == facts.inode &&
                      static_cast<std::uint64_t>(info.st_dev) == facts.device;
    ::close(descriptor);
    return same;
}

std::vector<std::string> list_names(const std::string& prefix) {
    std::vector<std::string> names;
    const std::string place = companion_directory();
    DIR* directory = opendir(place.c_str());
    if (directory == nullptr) throw_refused(Asked::open, "listing " + place);
    while (const dirent* entry = readdir(directory))
        if (is_listed(entry->d_name, prefix)) names.emplace_back(entry->d_name);
    closedir(directory);
    std::sort(names.begin(), names.end());
    return names;
}

void unmap(void* address, std::uint64_t bytes) noexcept { munmap(address, bytes); }
void populate(std::byte* begin, std::uint64_t bytes) noexcept { touch_pages(begin, bytes); }
void exclude_from_core_dumps(void*, std::uint64_t) noexcept {}  // macOS has no such advice
std::uint64_t page_bytes() noexcept { return static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)); }
std::uint64_t free_bytes() noexcept { return UINT64_MAX; }
const char* place() noexcept { return "the shared-memory name space"; }
std::string described_place() { return ""; }

}  // namespace ringcast::platform
