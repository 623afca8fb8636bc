// A link's desk: how the ends of this machine talk to the link process of their job.
//
// An end takes a place, whose lock byte it holds for as long as it is registered: the kernel says who is there. At a
// place it asks one request at a time and waits for its answer; the link answers in whatever order, from any thread. The
// link's life is its creator's lock byte: who waits for a link that died knows within a quarter of a second.
//
//     asker:  request = ...;  word = asked [desk-ask];  fence [signal];  unpark the link;      park, until answered
//     link:   word asked [desk-ask];  copy the request;  the same word still?
//             reply = ...;  word: asked -> answered [desk-answer];  fence [signal];  unpark the place
//
// Whoever dies, and wherever: a place is free with its lock, and its next holder's word is another (desk_layout.hpp). A
// waker that dies between clearing the sleeper's word and its system call costs the sleeper one slice.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "area.hpp"
#include "desk_layout.hpp"

namespace ringcast {

extern const AreaKind kDeskArea;

inline constexpr std::int64_t kDeskSliceNs = 250'000'000;

// What both sides have: the area, mapped.
class MappedDesk {
public:
    static std::unique_ptr<MappedDesk> create(const std::string& name, const std::string& job,
                                              const std::string& release);
    static std::unique_ptr<MappedDesk> attach(const std::string& name, const std::string& release);
    ~MappedDesk();
    MappedDesk(const MappedDesk&) = delete;
    MappedDesk& operator=(const MappedDesk&) = delete;

    Area& area() const noexcept { return *area_; }
    const DeskHeader& header() const noexcept { return *reinterpret_cast<const DeskHeader*>(bytes_); }
    DeskControl& control() const noexcept { return *reinterpret_cast<DeskControl*>(bytes_ + kDeskControlOffset); }
    DeskPlace& place(std::uint32_t i) const noexcept {
        return reinterpret_cast<DeskPlace*>(bytes_ + kDeskPlacesOffset)[i];
    }
    std::string link() const;
    bool in_forked_child() const noexcept { return area_->in_forked_child(); }

private:
    MappedDesk() = default;
    void initialise(const std::string& job, const std::string& release);
    void map(const platform::SharedFile& file);
    void unmap() noexcept;

    std::unique_ptr<Area> area_;
    std::byte* bytes_ = nullptr;
};

// The link's side. One thread waits and takes requests; the others are called from any.
class Desk {
public:
    struct Request {
        std::uint32_t place;
        std::uint32_t incarnation;
        std::uint32_t number;
        std::string text;
    };

    // Throws segment_exists if a living link has the name, and what Area::create throws.
    static std::unique_ptr<Desk> create(const std::string& name, const std::string& job, const std::string& release);
    ~Desk() { close(); }

    // Until a request has been put that was not taken, `rouse`, a signal, or the time is over, which is at most a slice.
    // Is there a request, or was it roused?
    bool wait(std::int64_t timeout_ns) noexcept;
    void rouse() noexcept;
    std::vector<Request> take_requests();
    // False: nobody waits for it any more.
    bool answer(std::uint32_t place, std::uint32_t incarnation, std::uint32_t number, std::string_view text) noexcept;
    // Does the place's holder of that incarnation live, and keep it?
    bool held(std::uint32_t place, std::uint32_t incarnation) const;
    bool in_use() const;
    // Closes it, unless anybody holds a place.
    bool close_if_unused();
    // Ends every wait at a place, and removes the name. Once.
    void close() noexcept;

private:
    explicit Desk(std::unique_ptr<MappedDesk> desk) : desk_(std::move(desk)) {}

    std::unique_ptr<MappedDesk> desk_;
    std::mutex answering_;
    std::atomic<bool> roused_{false};  // relaxed: `rouse` of parking.hpp orders it
    std::atomic<bool> closed_{false};
    std::vector<std::uint64_t> taken_ = std::vector<std::uint64_t>(kDeskPlaces);  // each place's word, as last taken
};

// An end's side. `ask` is begin, wait until it is over, end; `close` may come from any thread.
class Place {
public:
    enum class Begun { asked, busy, closed };  // busy: another request is being asked
    enum class Progress { answered, waiting, link_died, closed };

    // Throws segment_not_found if there is no living desk of this name, capacity if all places are taken.
    static std::unique_ptr<Place> take(const std::string& name, const std::string& release);
    ~Place() { close(); }

    Begun begin(std::string_view request);
    // Until the answer has come, the link is gone, `close`, a signal, or the time is over, which is at most a slice.
    Progress wait(std::int64_t timeout_ns);
    std::string reply() const { return place().reply.load(); }
    // Gives the request up, if it was not answered.
    void end() noexcept;
    // Never waits.
    void close() noexcept;

    std::uint32_t index() const noexcept { return index_; }
    std::uint32_t incarnation() const noexcept { return incarnation_; }
    bool closed() const noexcept { return (use_.load(std::memory_order_relaxed) & kClosed) != 0; }
    bool in_forked_child() const noexcept { return desk_->in_forked_child(); }
    // "the link process of job 'x' (pid 77, stopped)"
    std::string link() const { return desk_->link(); }
    std::uint32_t link_pid() const noexcept { return desk_->header().creator_pid; }
    // Has it neither died nor ended? Asks the kernel.
    bool link_lives() const;

private:
    static constexpr std::uint32_t kClosed = 1;
    static constexpr std::uint32_t kAsking = 2;

    Place(std::unique_ptr<MappedDesk> desk, std::uint32_t index) noexcept;
    DeskPlace& place() const noexcept { return desk_->place(index_); }
    bool answered() const noexcept;
    void leave() noexcept;

    std::unique_ptr<MappedDesk> desk_;
    std::uint32_t index_;
    std::uint32_t incarnation_;
    std::uint32_t number_ = 0;
    std::atomic<std::uint32_t> use_{0};  // who finds the other bit set leaves the rest to the other
    std::atomic<bool> roused_{false};    // relaxed: `rouse` of parking.hpp orders it
};

}  // namespace ringcast
