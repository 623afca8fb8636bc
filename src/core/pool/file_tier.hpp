// A tier in one preallocated file of equal slots.
//
//     block 0     FileHeader: what the file is, and the era
//     slot i      a block of SlotHeader, then room for a chunk
//
// A chunk and its header go out in one write, straight from the caller's memory where that is aligned and the file system
// takes it (O_DIRECT), else through a copy. The headers are the only index on disk; the one in memory is made of them at
// the start. A write that was cut off leaves a header or bytes that its checksums do not agree with, and so nothing.
//
// What has been stored survives the death of the process, and a loss of power once `sync` has returned.
#pragma once

#include <sys/types.h>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "platform/lock_file.hpp"
#include "pool/digest.hpp"
#include "pool/tier.hpp"

namespace ringcast::pool {

inline constexpr std::size_t kTierBlock = 4096;  // of disks; offsets, lengths and memory for O_DIRECT

class FileTier final : public Tier {
public:
    struct Options {
        std::string path;
        std::uint64_t size = 0;         // bytes of the file, header and all
        std::uint64_t chunk_bytes = 0;  // of the longest chunk
        bool direct = true;             // past the page cache, if the file system can
    };
    struct Counts {
        std::uint64_t stores, stored, stored_bytes, store_ns;
        std::uint64_t loads, hits, loaded_bytes, load_ns;
        std::uint64_t refused, failed, corrupt, evicted, copied;
    };

    // Makes the file, or takes what is in it. Throws Error(tier): no such folder, a disk that is full, a file that is not a
    // tier's or is one of another version, byte order, size or chunk size, and one that a living process has.
    explicit FileTier(const Options& options);
    ~FileTier() override;
    FileTier(const FileTier&) = delete;
    FileTier& operator=(const FileTier&) = delete;

    TierOutcome store(const Digest& key, std::span<const std::byte> bytes, const TierNote& note) noexcept override;
    TierOutcome load(const Digest& key, std::span<std::byte> into) noexcept override;
    bool exists(const Digest& key) noexcept override;
    TierOutcome remove(const Digest& key) noexcept override;
    void clear(std::uint64_t era) override;
    std::uint64_t era() const noexcept override { return era_.load(std::memory_order_relaxed); }
    TierOutcome sync() noexcept override;
    // Synced, unlocked, closed; calls fail from then on. Waits for those that run.
    void close() noexcept;

    struct Content {
        Digest key;
        TierNote note;
        std::uint64_t length;
        std::uint64_t sequence;
        std::uint32_t crc;  // of its bytes
    };
    std::vector<Content> contents() const;  // in the order in which they were stored

    Counts counts() const noexcept;
    const std::string& path() const noexcept { return path_; }
    std::size_t slots() const noexcept { return slots_.size(); }
    std::size_t used() const;
    bool direct() const noexcept { return direct_; }
    bool preallocated() const noexcept { return preallocated_; }
    std::uint64_t chunk_bytes() const noexcept { return chunk_bytes_; }
    std::uint64_t indexed_in_ns() const noexcept { return indexed_in_ns_; }
    std::string last_error() const override;
    bool in_forked_child() const noexcept { return made_in_ != platform::fork_generation(); }

private:
    enum class State : std::uint8_t { free, writing, present, dropping };
    struct Slot {
        Digest key{};
        std::uint64_t sequence = 0;
        std::uint64_t length = 0;
        TierNote note{};
        std::uint32_t crc = 0;
        std::uint32_t readers = 0;  // nobody writes to it while there are some
        State state = State::free;
        bool used = false;  // since the clock's hand came by
    };
    struct DigestHash {
        std::size_t operator()(const Digest& digest) const noexcept {
            return static_cast<std::size_t>(digest.words[0]);
        }
    };
    class Call;  // one that runs; `close` waits for it

    void open(const Options& options);
    void read_header(const Options& options);
    void write_header(pid_t owner);  // 0: nobody
    void read_slots();
    std::uint64_t offset_of(std::size_t slot) const noexcept { return kTierBlock + slot * stride_; }
    // One that is to be written to, out of the index; none: slots() is returned.
    std::size_t claim();
    // A slot that nobody reads, with nothing in it: its header is erased, so that no later index has it.
    void erase(std::size_t slot) noexcept;
    TierOutcome failed(const char* what, int error) noexcept;

    std::string path_;
    int file_ = -1;
    platform::LockFile lock_;
    std::uint32_t made_in_ = platform::fork_generation();
    std::uint64_t size_ = 0;
    std::uint64_t chunk_bytes_ = 0;
    std::uint64_t stride_ = 0;
    bool direct_ = false;
    bool preallocated_ = true;
    std::uint64_t indexed_in_ns_ = 0;
    // Of memory, for O_DIRECT: what most disks take, until one does not. Relaxed: a wrong guess costs one more try.
    std::atomic<std::size_t> alignment_{512};

    mutable std::mutex mutex_;  // all below
    std::condition_variable changed_;
    std::vector<Slot> slots_;
    std::unordered_map<Digest, std::size_t, DigestHash> index_;
    std::vector<std::size_t> free_;
    std::size_t hand_ = 0;
    std::uint64_t sequence_ = 0;
    std::size_t calls_ = 0;
    bool closed_ = false;
    bool broken_ = false;  // an era could not be raised on disk: nothing more is stored
    std::string last_error_;
    std::mutex header_;                  // one writer of block 0
    std::atomic<std::uint64_t> era_{0};  // written under mutex_; relaxed elsewhere, for who only shows it

    // Relaxed: figures.
    std::atomic<std::uint64_t> stores_{0}, stored_{0}, stored_bytes_{0}, store_ns_{0};
    std::atomic<std::uint64_t> loads_{0}, hits_{0}, loaded_bytes_{0}, load_ns_{0};
    std::atomic<std::uint64_t> refused_{0}, failed_{0}, corrupt_{0}, evicted_{0}, copied_{0};
};

}  // namespace ringcast::pool
