// A queue's segment: the header and the memory of a queue, in an area.
//
// One file holds all: the control part, which every end maps writable, and behind it the sparse data part, which only
// the writer maps writable. Attaching believes nothing: sizes and every offset are compared with what this build would
// have made of the same geometry, and are never read from shared memory again.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "area.hpp"
#include "geometry.hpp"
#include "layout.hpp"
#include "private_data.hpp"
#include "seats.hpp"

namespace ringcast {

enum class Access {
    observe,  // looks only: takes no seat and changes nothing
    read,     // may take a seat; views lie on a private mapping, if there can be one
    copy,     // the same, and it is an error if there can be none
};

// The writer, on another machine, whose messages a relay carries.
struct Source {
    std::string host;
    std::uint32_t pid = 0;
};

class Segment {
public:
    struct Request {
        std::string name;       // of the segment, complete
        std::string user_name;  // empty if the user gave none
        std::string release;    // of the package, for messages
        Geometry geometry;
        std::vector<std::uint32_t> ranks;  // n_local of them
        std::optional<Source> source{};    // of a relay, whose ranks are kNobody until name_rank
    };

    static std::shared_ptr<Segment> create(const Request& request);
    static std::shared_ptr<Segment> attach(const std::string& name, Access access, const std::string& release);
    ~Segment();
    Segment(const Segment&) = delete;
    Segment& operator=(const Segment&) = delete;

    const std::string& name() const noexcept { return area_->name(); }
    const Header& header() const noexcept { return header_; }
    const Geometry& geometry() const noexcept { return geometry_; }
    const std::vector<std::uint32_t>& ranks() const noexcept { return ranks_; }
    bool is_creator() const noexcept { return area_->is_creator(); }
    // Does a handle promise messages to the ranks?
    bool is_promised() const noexcept { return ring_.control->promised.load(std::memory_order_relaxed) != 0; }
    bool named() const noexcept { return header_.named != 0; }
    bool is_relay() const noexcept { return header_.relayed != 0; }
    Source source() const { return {text_of(header_.origin_host, sizeof header_.origin_host), header_.origin_pid}; }
    // The rank whose home seat is seat `home`; kNobody if that is not known yet.
    std::uint32_t rank_of(std::uint32_t home) const noexcept;
    // Of a relay, by its creator: the reader that is expected in seat `home` has this rank.
    void name_rank(std::uint32_t home, std::uint32_t rank) noexcept;
    std::string user_name() const;  // empty if not named
    std::string label() const;      // its queue_label
    const platform::LockFile& locks() const noexcept { return area_->locks(); }
    const RingView<platform::Native>& ring() const noexcept { return ring_; }
    std::byte* data() const noexcept { return data_; }
    // What views lie on; null for a writer, and where there can be no such mapping.
    PrivateData* private_data() const noexcept { return private_data_.get(); }
    std::uint64_t committed_bytes() const noexcept;

    // Gives a range of the data part memory; false if the machine has not enough. Creator only.
    bool reserve_data(std::uint64_t begin, std::uint64_t end);
    // Gives its memory back; false where the system cannot do that. Nobody may be using the range.
    bool release_data(std::uint64_t begin, std::uint64_t end) noexcept;
    void unlink() noexcept { area_->unlink(); }
    void unlink_if_abandoned() noexcept { area_->unlink_if_abandoned(); }
    bool name_is_left() const noexcept { return area_->name_is_left(); }
    bool creator_alive() const { return area_->creator_alive(); }

private:
    Segment() = default;
    void map(const platform::SharedFile& file, bool control_writable, bool data_writable);
    void map_privately(const platform::SharedFile& file, Access access);
    void unmap() noexcept;
    void initialise(const Request& request);
    std::atomic<std::uint32_t>& shared_rank(std::uint32_t home) const noexcept {
        return reinterpret_cast<std::atomic<std::uint32_t>*>(control_ + geometry_.ranks_offset)[home];
    }

    std::unique_ptr<Area> area_;  // null until it is made
    std::uint32_t fork_generation_ = platform::fork_generation();
    Header header_{};
    Geometry geometry_;
    std::vector<std::uint32_t> ranks_;
    std::byte* control_ = nullptr;
    std::byte* data_ = nullptr;
    std::unique_ptr<PrivateData> private_data_;
    RingView<platform::Native> ring_;
};

extern const AreaKind kQueueArea;

// What every message calls a queue: "queue 'sched'", or "queue segment 'ringcast_~0x.0'" if its user gave it no name.
std::string queue_label(const std::string& user_name, const std::string& segment_name);

}  // namespace ringcast
