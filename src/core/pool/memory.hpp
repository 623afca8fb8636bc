// A pool's memory: its area, mapped as a server or as a client.
//
// Nobody owns it as a queue's writer owns its queue: it lives while the server's lock byte or any seat's is held. A server
// that ends in order removes it; a killed one leaves it to those who map it, to the next server of its name, which adopts
// it, or to the next sweep.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "area.hpp"
#include "pool/index.hpp"
#include "pool/pool_layout.hpp"
#include "prefault.hpp"

namespace ringcast::pool {

using platform::Native;

extern const AreaKind kPoolArea;

struct PoolGeometry {
    std::uint64_t capacity = 0;
    std::uint32_t seats = 0;
    std::uint32_t pins = 0;
    std::uint32_t entries = 0;
    // derived
    std::uint32_t buckets = 0;
    std::uint32_t events = 0;
    std::uint32_t spaces = 0;
    std::uint64_t seat_bytes = 0;
    std::uint64_t seats_offset = 0;
    std::uint64_t entries_offset = 0;
    std::uint64_t records_offset = 0;
    std::uint64_t cells_offset = 0;
    std::uint64_t events_offset = 0;
    std::uint64_t spaces_offset = 0;
    std::uint64_t data_offset = 0;
    std::uint64_t total_bytes = 0;

    bool operator==(const PoolGeometry&) const = default;
};
// For these sizes, or invalid_argument. No entries: as many as the capacity suggests.
PoolGeometry plan_pool(std::uint64_t capacity, std::uint32_t seats, std::uint32_t pins, std::uint32_t entries);

// Pages that are mapped while it lives.
class Mapping {
public:
    Mapping() = default;
    Mapping(std::byte* begin, std::uint64_t bytes) noexcept : begin_(begin), bytes_(bytes) {}
    Mapping(Mapping&& other) noexcept { *this = std::move(other); }
    Mapping& operator=(Mapping&& other) noexcept {
        std::swap(begin_, other.begin_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~Mapping() {
        if (begin_ != nullptr) platform::unmap(begin_, bytes_);
    }
    std::byte* begin() const noexcept { return begin_; }
    // In a forked child the pages are its ancestor's.
    void forget() noexcept { begin_ = nullptr; }

private:
    std::byte* begin_ = nullptr;
    std::uint64_t bytes_ = 0;
};

class PoolMemory {
public:
    struct Request {
        std::string name;       // of the area, complete
        std::string user_name;  // as the user says it
        std::string release;
        PoolGeometry geometry;
        bool kept = false;
        bool checksums = true;
        Progress progress{};  // of the memory that is reserved
    };
    struct Served {
        std::unique_ptr<PoolMemory> memory;
        bool adopted;
    };

    // A server's: makes it, or takes over what a dead server left under this name, if that has the same sizes. Throws
    // segment_exists if a living server has it, segment_mismatch.
    static Served serve(const Request& request);
    // A client's, or somebody's who only looks. Throws segment_not_found, segment_mismatch.
    static std::unique_ptr<PoolMemory> attach(const std::string& name, const std::string& release);
    ~PoolMemory();
    PoolMemory(const PoolMemory&) = delete;
    PoolMemory& operator=(const PoolMemory&) = delete;

    const std::string& name() const noexcept { return area_->name(); }
    const PoolHeader& header() const noexcept { return header_; }
    std::string label() const;  // "pool 'kv0'"
    const platform::LockFile& locks() const noexcept { return area_->locks(); }
    bool in_forked_child() const noexcept { return fork_generation_ != platform::fork_generation(); }
    bool server_alive() const { return area_->creator_alive(); }
    std::string server() const;  // "its server (pid 7, stopped)"

    // Sleeps until the server has stored or removed something since `seen`, at most `most_ns`, and not for long at a time.
    std::uint32_t changes() const noexcept { return words().changes.load(std::memory_order_acquire); }
    void wait_for_change(std::uint32_t seen, std::int64_t most_ns) const noexcept;

    ServerWords<Native>& words() const noexcept { return *at<ServerWords<Native>>(kServerWordsOffset); }
    Bell<Native>& bell() const noexcept { return *reinterpret_cast<Bell<Native>*>(bell_); }
    NativePoolSeat& seat(std::uint32_t i) const noexcept {
        return *at<NativePoolSeat>(header_.seats_offset + i * header_.seat_bytes);
    }
    EntryRecord& record(std::uint32_t entry) const noexcept { return at<EntryRecord>(header_.records_offset)[entry]; }
    const Index<Native>& index() const noexcept { return index_; }
    Index<Native>& index() noexcept { return index_; }
    std::span<SpaceRecord> spaces() const noexcept {
        return {at<SpaceRecord>(header_.spaces_offset), header_.n_spaces};
    }
    EventRecord* events() const noexcept { return at<EventRecord>(header_.events_offset); }
    const std::byte* data() const noexcept { return bytes_ + header_.data_offset; }
    // A server's, which has mapped all of it writable.
    std::byte* served_data() const noexcept { return bytes_ + header_.data_offset; }

    // A client's: takes the first vacant seat whose lock it gets, and maps it writable; nothing if there is none now.
    std::optional<std::uint32_t> take_seat();
    NativePoolSeat& own_seat() const noexcept { return *reinterpret_cast<NativePoolSeat*>(own_seat_.begin()); }
    // A seat, writable: for who has its lock.
    Mapping map_seat(std::uint32_t seat) const;
    // The blocks, writable; mapped when first asked for.
    std::byte* writable_data();
    // Bytes of a block, copy-on-write, in a mapping of their own, and where in it they are. An empty one where the system
    // has no such.
    std::pair<Mapping, std::byte*> map_privately(std::uint64_t offset, std::uint64_t bytes) const;

    // A server's: touches all of it, see prefault.hpp.
    void prefault(const Progress& progress) const { ringcast::prefault(bytes_, header_.total_bytes, progress); }

    // A server's, at its end in order.
    void unlink() noexcept { area_->unlink(); }
    void disown() noexcept { area_->disown(); }
    // What is done by who had it and does not any more, in case that he was the last and its server died.
    void remove_if_abandoned() noexcept {
        if (header_.kept == 0) area_->unlink_if_abandoned();
    }

private:
    PoolMemory() = default;
    template <class T>
    T* at(std::uint64_t offset) const noexcept {
        return reinterpret_cast<T*>(bytes_ + offset);
    }
    static std::unique_ptr<PoolMemory> create(const Request& request);
    static std::unique_ptr<PoolMemory> adopt(const Request& request);
    static std::unique_ptr<PoolMemory> open(const std::string& name, const std::string& release, bool writable);
    void map(const platform::SharedFile& file, bool writable);
    void initialise();
    // Throws if other code of the process has closed its descriptor.
    const platform::SharedFile& file() const;

    std::uint32_t fork_generation_ = platform::fork_generation();
    std::unique_ptr<Area> area_;
    platform::SharedFile file_;  // for what is mapped later
    platform::FileFacts facts_{};
    PoolHeader header_{};
    std::byte* bytes_ = nullptr;
    Mapping all_;
    Mapping own_bell_;
    std::byte* bell_ = nullptr;
    Mapping own_seat_;
    std::mutex mapping_data_;
    Mapping own_data_;
    Index<Native> index_;
};

}  // namespace ringcast::pool
