// Named shared memory of one machine, as the operating system gives it.
//
// Names are those of shm_open(3) without the leading slash, so other software can map what we make by its name.
// A file is created, sized and filled before anybody can see it, where the system can do that (Linux); elsewhere it is
// visible from `create` on and the segment's ready word, stored last, tells an attacher to wait.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ringcast::platform {

inline constexpr std::size_t kMaxNameBytes = 29;  // macOS: PSHMNAMLEN is 30 with the slash

struct FileFacts {
    std::uint64_t bytes;      // logical size
    std::uint64_t committed;  // memory it takes; its size where the system does not tell
    std::uint64_t device;
    std::uint64_t inode;
    std::uint32_t owner;
    std::uint32_t mode;  // permission bits
    bool regular;
};

class SharedFile {
public:
    SharedFile() = default;
    SharedFile(SharedFile&& other) noexcept;
    SharedFile& operator=(SharedFile&& other) noexcept;
    ~SharedFile();

    // Makes a file of `bytes` bytes with mode 0600, none of them reserved yet. `name` is used where a file cannot be
    // made without one; there, an existing name throws segment_exists already here.
    static SharedFile create(const std::string& name, std::uint64_t bytes);
    // Gives the file its name in one step; segment_exists if another file has it.
    void link(const std::string& name);
    // segment_not_found, segment_permission
    static SharedFile open(const std::string& name);

    FileFacts facts() const;
    // Copies the file's first bytes; throws if it has fewer.
    void read(void* to, std::size_t bytes) const;
    void* map(std::uint64_t offset, std::uint64_t bytes, bool writable) const;
    // The same, placed so that huge pages of the file can be mapped as such, and with the wish for them.
    void* map_large(std::uint64_t offset, std::uint64_t bytes, bool writable) const;
    // Writable, copy-on-write: what is written stays in this mapping. Null where the system cannot do it.
    void* map_private(std::uint64_t bytes, std::uint64_t offset = 0) const;
    // A second, independent open of the same file.
    SharedFile again() const {
        SharedFile other(open_for_locks(name_));
        other.name_ = name_;
        return other;
    }
    // A second, independent open of the same file's lock bytes, never to be mapped.
    int open_for_locks(const std::string& name) const;
    // The descriptor of the lock bytes of a file that is not mapped through this object.
    int into_locks(const std::string& name) &&;
    void close() noexcept;

private:
    explicit SharedFile(int descriptor) : descriptor_(descriptor) {}
    int descriptor_ = -1;
    std::string name_;  // for messages
};

// Reserves memory for a range, so that touching it can never fail. False if there is not enough; throws on other
// errors. On Linux any descriptor of the file serves; on macOS memory is not limited by a file system and this only
// checks.
bool reserve(int descriptor, std::uint64_t offset, std::uint64_t bytes);

// Gives a range's memory back; its bytes are then zero. False if the system cannot do that.
bool give_back(int descriptor, std::uint64_t offset, std::uint64_t bytes) noexcept;

// Is a file visible from `create` on, and not only from `link` on?
bool named_from_creation() noexcept;
int unlink_name(const std::string& name) noexcept;  // 0, or the errno; a name that is gone already is no error
bool name_refers_to(const std::string& name, const FileFacts& facts) noexcept;
// Names that begin like this, sorted; only printable ones, as all of ours are.
std::vector<std::string> list_names(const std::string& prefix);
inline bool is_listed(std::string_view name, std::string_view prefix) noexcept {
    return name.starts_with(prefix) && std::ranges::all_of(name, [](char c) { return c > ' ' && c <= '~'; });
}
void unmap(void* address, std::uint64_t bytes) noexcept;
// Maps all pages of a range that is mapped writable and reserved, as huge pages where the system makes them now. The bytes
// stay what they are, whoever writes them meanwhile.
void populate(std::byte* begin, std::uint64_t bytes) noexcept;
void exclude_from_core_dumps(void* address, std::uint64_t bytes) noexcept;
std::uint64_t page_bytes() noexcept;
// The way to populate that every system has. An addition of 0 would do as well, but compilers make a load of that.
inline void touch_pages(std::byte* begin, std::uint64_t bytes) noexcept {
    for (std::uint64_t at = 0; at < bytes; at += page_bytes()) {
        auto& byte = *reinterpret_cast<std::atomic<unsigned char>*>(begin + at);
        unsigned char now = byte.load(std::memory_order_relaxed);
        // Where it fails, somebody else has just written the page.
        byte.compare_exchange_strong(now, now, std::memory_order_relaxed, std::memory_order_relaxed);
    }
}

// What the shared-memory file system can still give; UINT64_MAX where there is no such limit.
std::uint64_t free_bytes() noexcept;
// Where people find it: "/dev/shm" on Linux.
const char* place() noexcept;
// For messages: ", and is one of another kind (ramfs)" if the place is not a tmpfs; else empty.
std::string described_place();

}  // namespace ringcast::platform
