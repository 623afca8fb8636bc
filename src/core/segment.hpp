// A queue's segment: made, found, checked, mapped and unlinked.
//
// One file holds all: the control part, which every end maps writable, and behind it the sparse data part, which only
// the writer maps writable. One name, one descriptor (for locks), and a segment is either there whole or not at all.
// Attaching believes nothing: owner, mode, magic, version, byte order, sizes and every offset are compared with what
// this build would have made of the same geometry, and are never read from shared memory again.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "geometry.hpp"
#include "layout.hpp"
#include "locks.hpp"
#include "platform/lock_file.hpp"
#include "platform/shared_file.hpp"
#include "seats.hpp"

namespace ringcast {

enum class Access {
    observe,  // looks only: takes no seat and changes nothing
    read,     // may take a seat
    copy,     // the same, and has a private, writable mapping of the data part as well
};

class Segment {
public:
    struct Request {
        std::string name;       // of the segment, complete
        std::string user_name;  // empty if the user gave none
        std::string release;    // of the package, for messages
        Geometry geometry;
        std::vector<std::uint32_t> ranks;  // n_local of them
    };

    // Throws segment_exists if the name belongs to a living creator, or is being removed and is not gone within 1 s; a
    // dead creator's segment is replaced.
    static std::shared_ptr<Segment> create(const Request& request);
    // segment_not_found, segment_permission, segment_mismatch
    static std::shared_ptr<Segment> attach(const std::string& name, Access access, const std::string& release);
    ~Segment();
    Segment(const Segment&) = delete;
    Segment& operator=(const Segment&) = delete;

    const std::string& name() const noexcept { return name_; }
    const Header& header() const noexcept { return header_; }
    const Geometry& geometry() const noexcept { return geometry_; }
    const std::vector<std::uint32_t>& ranks() const noexcept { return ranks_; }
    bool is_creator() const noexcept { return is_creator_; }
    bool named() const noexcept { return header_.named != 0; }
    std::string user_name() const;  // empty if not named
    std::string label() const;      // for messages: "queue 'sched'", or "queue segment 'ringcast_~0x.0'"
    const platform::LockFile& locks() const noexcept { return locks_; }
    const RingView<platform::Native>& ring() const noexcept { return ring_; }
    std::byte* data() const noexcept { return data_; }
    // The data part mapped copy-on-write, for views that may be changed in place; null without Access::copy.
    std::byte* private_data() const noexcept { return private_data_; }
    // False once it shows what a view has left there: then no further view may lie on it.
    bool private_data_is_clean() const noexcept { return private_data_is_clean_.load(std::memory_order_relaxed); }
    void private_data_was_left_dirty() const noexcept {
        private_data_is_clean_.store(false, std::memory_order_relaxed);
    }
    std::uint64_t committed_bytes() const noexcept;

    // Gives a range of the data part memory; false if the machine has not enough. Creator only.
    bool reserve_data(std::uint64_t begin, std::uint64_t end);
    // Gives its memory back; false where the system cannot do that. Nobody may be using the range.
    bool release_data(std::uint64_t begin, std::uint64_t end) noexcept;
    // Removes the name; those who have mapped the segment keep it. Creator only, once, not in a forked child.
    void unlink() noexcept;
    // What a survivor does for a creator that died.
    void unlink_if_abandoned() noexcept;
    // Is the creator's process alive, or this one the creator's?
    bool creator_alive() const;

private:
    Segment(std::string name, bool is_creator) : name_(std::move(name)), is_creator_(is_creator) {}
    void map(const platform::SharedFile& file, bool control_writable, bool data_writable);
    void initialise(const Request& request);

    std::string name_;
    bool is_creator_;
    bool linked_ = false;
    std::uint32_t fork_generation_ = platform::fork_generation();
    Header header_{};
    Geometry geometry_;
    std::vector<std::uint32_t> ranks_;
    platform::LockFile locks_;
    std::byte* control_ = nullptr;
    std::byte* data_ = nullptr;
    std::byte* private_data_ = nullptr;
    mutable std::atomic<bool> private_data_is_clean_{true};  // leases end in any thread
    RingView<platform::Native> ring_;
    platform::FileFacts facts_{};
};

std::string in_units(std::uint64_t bytes);  // "1.5 MiB", "300 bytes"

// "needed 3.0 MiB, free 1.2 MiB ..." with the remedy; `what` says what was being done.
[[noreturn]] void throw_capacity(const std::string& what, std::uint64_t needed);

}  // namespace ringcast
