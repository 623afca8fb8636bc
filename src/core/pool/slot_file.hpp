// The file of a tier: what lies where in it, and what tells a chunk that is whole from one that is not.
//
//     block 0     FileHeader: what the file is, and the era
//     slot i      a block of SlotHeader, then room for a chunk
//
// A chunk goes out in pieces, the first of them last and in one write with the header, straight from the caller's memory where
// that is aligned and the file system takes it (O_DIRECT), else through a copy. The headers are the only index on disk. A
// write that was cut off leaves a header or bytes that its checksums do not agree with, and so nothing.
//
// One process has the file. Which slots are free, and who may read or write one, is not known here but to the caller.
#pragma once

#include <sys/types.h>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "platform/lock_file.hpp"
#include "pool/digest.hpp"
#include "pool/tier.hpp"

namespace ringcast::pool {

inline constexpr std::size_t kTierBlock = 4096;  // of disks; offsets, lengths and memory for O_DIRECT

class SlotFile {
public:
    struct Options {
        std::string path;
        std::uint64_t size = 0;         // bytes of the file, header and all
        std::uint64_t chunk_bytes = 0;  // of the longest chunk, without the checksums of its parts
        bool direct = true;             // past the page cache, if the file system can
    };
    // What a slot's header says of the chunk behind it.
    struct Record {
        Digest key{};
        std::uint64_t length = 0;  // 0: there is no chunk
        std::uint64_t era = 0;
        std::uint64_t sequence = 0;  // of two with one key the higher is the later
        TierNote note{};
        std::uint32_t crc = 0;  // of its bytes
    };
    struct Found {
        int error = 0;       // an errno
        bool right = false;  // the header is the one that was asked for, and the bytes are those it was written for
    };

    // Makes the file, or takes what is in it. Throws Error(tier): no such folder, a disk that is full, a file that is not a
    // tier's or is one of another version, byte order, size or chunk size, and one that a living process has.
    explicit SlotFile(const Options& options);
    ~SlotFile() { close(); }
    SlotFile(const SlotFile&) = delete;
    SlotFile& operator=(const SlotFile&) = delete;

    const std::string& path() const noexcept { return path_; }
    std::size_t slots() const noexcept { return slots_; }
    // One for each slot: chunks of this era whose headers are whole. Their bytes have not been looked at.
    std::vector<Record> records() const;

    // From any thread, to slots that the caller has to itself. 0 or an errno.
    // `write` sums the chunk on the way, into the record.
    int write(std::size_t slot, Record& record, std::span<const std::byte> chunk) noexcept;
    int erase(std::size_t slot) noexcept;
    // `into` is as long as the record's chunk. A file that ends before it is no error: the chunk is not right.
    Found read(std::size_t slot, const Record& record, std::span<std::byte> into) noexcept;

    // One call at a time. Synced when it returns; throws Error(tier) if it may not be there.
    void set_era(std::uint64_t era);
    std::uint64_t era() const noexcept { return era_; }
    int sync() noexcept;
    // Synced, unlocked, closed, once; in a forked child closed only. No other call runs or comes any more.
    void close() noexcept;

    // Throws Error(tier) that names the file.
    [[noreturn]] void refuse(const std::string& what, int error = 0) const;
    std::uint64_t chunk_bytes() const noexcept { return chunk_bytes_; }
    bool direct() const noexcept { return direct_; }
    bool preallocated() const noexcept { return preallocated_; }
    std::uint64_t copied() const noexcept { return copied_.load(std::memory_order_relaxed); }
    bool in_forked_child() const noexcept { return made_in_ != platform::fork_generation(); }

private:
    void open(const Options& options);
    void read_header(const Options& options);
    void write_header(pid_t owner);  // 0: nobody
    // What of a chunk lies `at` bytes after its begin, and the header's block if it is the first piece and that is to go with
    // it; through a copy if it has to be. 0, an errno, or -1 at the end of the file.
    int move(bool out, std::size_t slot, std::byte* header, std::span<std::byte> piece, std::size_t at) noexcept;
    std::uint64_t offset_of(std::size_t slot) const noexcept { return kTierBlock + slot * stride_; }

    const std::string path_;
    const std::uint64_t size_;
    const std::uint64_t chunk_bytes_;
    const std::uint64_t stride_;
    std::size_t slots_ = 0;
    int file_ = -1;
    platform::LockFile lock_;
    std::uint32_t made_in_ = platform::fork_generation();
    bool direct_ = false;
    bool preallocated_ = true;
    bool fresh_ = false;  // no slot of it was written to before
    std::uint64_t era_ = 0;
    // Of memory, for O_DIRECT: what most disks take, until one does not. Relaxed: a wrong guess costs one more try.
    std::atomic<std::size_t> alignment_{512};
    std::atomic<std::uint64_t> copied_{0};  // relaxed: a figure
};

}  // namespace ringcast::pool
