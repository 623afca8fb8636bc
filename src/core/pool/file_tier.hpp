// A tier in one preallocated file of equal slots: the life of its slots, free, being written, present, and waiting for who
// still reads them. What is in the file, and what makes it trustworthy, is slot_file.hpp's.
//
// The index is made of the slots' headers at the start. A full tier gives up the next slot that was not used since its
// clock's hand came by, and that nobody reads. What has been stored survives the death of the process, and a loss of power
// once `sync` has returned.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "pool/digest.hpp"
#include "pool/slot_file.hpp"
#include "pool/tier.hpp"

namespace ringcast::pool {

class FileTier final : public Tier {
public:
    using Options = SlotFile::Options;
    struct Counts {
        std::uint64_t stores, stored, stored_bytes, store_ns;
        std::uint64_t loads, hits, loaded_bytes, load_ns;
        std::uint64_t refused, failed, corrupt, evicted, copied;
    };

    // As SlotFile; and reads what is in it.
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
    std::uint64_t most_bytes(std::uint32_t parts) const noexcept override;
    // What has been stored is there after a loss of power, and what has been removed is not, after that or any restart.
    TierOutcome sync() noexcept override;
    // Synced, unlocked, closed; calls fail from then on. Waits for those that run.
    void close() noexcept;

    using Content = SlotFile::Record;
    std::vector<Content> contents() const;  // in the order in which they were stored

    Counts counts() const noexcept;
    std::size_t slots() const noexcept { return slots_.size(); }
    std::size_t used() const;
    bool direct() const noexcept { return file_.direct(); }
    bool preallocated() const noexcept { return file_.preallocated(); }
    std::uint64_t chunk_bytes() const noexcept { return file_.chunk_bytes(); }
    std::uint64_t indexed_in_ns() const noexcept { return indexed_in_ns_; }
    std::string last_error() const override;
    bool in_forked_child() const noexcept { return file_.in_forked_child(); }

private:
    enum class State : std::uint8_t { free, writing, present, dropping };
    struct Slot {
        SlotFile::Record record;
        std::uint32_t readers = 0;  // nobody writes to it while there are some
        State state = State::free;
        bool used = false;   // since the clock's hand came by
        bool stale = false;  // its header still says what is gone, since it could not be erased
    };
    struct DigestHash {
        std::size_t operator()(const Digest& digest) const noexcept {
            return static_cast<std::size_t>(digest.words[0]);
        }
    };
    class Call;  // one that runs; `close` waits for it

    // One that is to be written to, out of the index; none: slots() is returned.
    std::size_t claim();
    // From being written to, or read in vain, to being free.
    void give_back(std::size_t at) noexcept;
    // A chunk that is present: out of the index, and once nobody reads it, erased and free. Lets go of the mutex meanwhile.
    void drop(Call& call, std::size_t at) noexcept;
    // A slot that nobody reads, with nothing in it: its header goes, so that no later index has it. 0 or an errno.
    int erase(std::size_t slot) noexcept;
    // The headers that could not be erased, again. 0 or an errno: a later index may have some of them. Lets go of the mutex
    // meanwhile.
    int erase_stale(std::unique_lock<std::mutex>& lock) noexcept;
    TierOutcome failed(const char* what, int error) noexcept;

    SlotFile file_;
    std::uint64_t indexed_in_ns_ = 0;

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
    std::mutex header_;               // one `clear` at a time
    std::atomic<std::uint64_t> era_;  // written under mutex_; relaxed elsewhere, for who only shows it

    // Relaxed: figures.
    std::atomic<std::uint64_t> stores_{0}, stored_{0}, stored_bytes_{0}, store_ns_{0};
    std::atomic<std::uint64_t> loads_{0}, hits_{0}, loaded_bytes_{0}, load_ns_{0};
    std::atomic<std::uint64_t> refused_{0}, failed_{0}, corrupt_{0}, evicted_{0};
};

}  // namespace ringcast::pool
