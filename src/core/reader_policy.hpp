// What a writer does about its readers: those who died, lag, leave or never came.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "desk.hpp"
#include "platform/process.hpp"
#include "readiness.hpp"
#include "ring.hpp"
#include "segment.hpp"

namespace ringcast {

// What a writer does about readers that are in its way, and about those that leave.
struct ReaderPolicy {
    enum class Dead { raise, evict };
    enum class Slow { block, raise, evict };
    enum class Left { log, raise };
    Dead dead = Dead::raise;
    Slow slow = Slow::block;
    Left left = Left::log;
    std::int64_t patience_ns = 0;  // how long a living reader may be waited for before `slow` applies
};

// A reader that the writer does not wait for any more.
struct Eviction {
    enum class Cause { dead, slow, absent, linkless };  // absent: it never attached; linkless: nor can it
    std::uint32_t rank;
    std::uint32_t pid;  // 0 if it never attached
    Cause cause;
    std::uint64_t behind;  // messages it had not read
};

// A promised rank for which messages were sent that nobody has read or will read.
struct Loss {
    enum class Cause { left, died };
    std::uint32_t rank;
    std::uint32_t pid;
    Cause cause;
    std::uint64_t first;  // the first of these messages
    std::uint64_t count;  // up to now
    bool absent;          // nobody has come for the rank since
};

// A reader on another machine has come out of reach, or back.
struct Reach {
    std::uint32_t rank;
    std::string host;
    bool cut;
};

class ReaderWatch {
public:
    using Native = platform::Native;

    ReaderWatch(Segment& segment, RingWriter<Native>& writer, const ReaderPolicy& policy);

    const ReaderPolicy& policy() const noexcept { return policy_; }
    // Readers on other machines come through the link at whose desk the writer holds this place, on `host`, and through
    // no other one. From any thread, one at a time; the first call counts.
    void rely_on(std::shared_ptr<const Place> link, std::string host) {
        if (link_ != nullptr) return;
        link_ = std::move(link);
        host_ = std::move(host);
        relied_on_.store(link_.get(), std::memory_order_release);  // release [rely]
    }
    // Is that link gone, and nobody left who could bring a reader from elsewhere? Asks the kernel.
    bool link_is_gone() const {
        const Place* link = relied_on_.load(std::memory_order_acquire);  // acquire [rely]
        return link != nullptr && !link->link_lives();
    }
    // Throws reader_died if it is: not all readers can be there any more, whatever the policy.
    void check_link() const {
        if (link_is_gone()) throw_link_gone();
    }
    // Promises the ranks, if nothing has been promised yet, every message from now on. Takes no turn. False: somebody is
    // just taking a rank's seat or leaving it, so it must be called again.
    bool promise();

    // Has a reader left since `departures` was called last? One load, for every message.
    bool anyone_left() const noexcept { return readers_that_left(segment_.ring()) != departures_; }
    // The promised ranks whose readers have left in order since: from here on messages are not read for them. Throws
    // reader_left if the policy says so, once.
    std::vector<Loss> departures();
    // The ranks that lack messages now that the queue ends, and of which `departures` has not told.
    std::vector<Loss> final_losses();

    // Is the seat's holder gone without having left, with `word` as its state; or is the link gone that alone could bring
    // whom the seat is kept for? If the kernel is not asked, only what it has said before counts.
    bool is_gone(std::uint32_t seat, std::uint64_t word, bool ask_kernel = true) const;
    // For such a holder: evicts it, as the policy says, or throws reader_died.
    std::optional<Eviction> drop_gone(std::uint32_t seat, std::uint64_t word);
    std::optional<Eviction> evict_seat(std::uint32_t seat, std::uint64_t word, Eviction::Cause cause) noexcept;
    // Evictions on other machines since the last call; `departures` is to be called too.
    std::vector<Eviction> evicted_elsewhere();
    // The same of those who have come out of reach, or back.
    std::vector<Reach> reach();
    // Has a reader died that reads through this stream? Throws reader_died, once, if the policy says so.
    void check_stream(std::uint32_t seat);
    // Any reader that is gone: see drop_gone.
    std::optional<Eviction> check_all();
    bool evict(std::uint32_t rank) noexcept;

    // "the reader of rank 3 (pid 77, stopped)"
    std::string describe(std::uint32_t seat, platform::Detail detail = platform::Detail::looked_up) const;

private:
    // What has been told of a rank.
    struct Told {
        std::uint64_t since = 0;
        std::uint64_t missed = 0;
    };
    std::vector<Loss> new_departures();
    bool evict_at(std::uint32_t seat, std::uint64_t word) noexcept;
    // Is the seat, with `word` as its state, kept for a reader on another machine that has not come?
    bool kept_for_elsewhere(std::uint32_t seat, std::uint64_t word) const noexcept;
    // Is the seat that of a stream through which nobody reads any more?
    bool is_lost(std::uint32_t seat) const;
    bool expect(std::uint32_t index);
    bool expect_elsewhere(std::uint32_t home);
    std::string describe_stream(std::uint32_t seat) const;
    std::uint32_t homes() const noexcept { return segment_.geometry().n_reader; }
    [[noreturn]] void throw_stream_gone(std::uint32_t seat);
    [[noreturn]] void throw_link_gone() const;

    Segment& segment_;
    RingWriter<Native>& writer_;
    ReaderPolicy policy_;
    std::shared_ptr<const Place> link_;
    std::string host_;
    std::atomic<const Place*> relied_on_{nullptr};
    std::uint32_t departures_ = 0;
    std::atomic<std::uint32_t> promised_ranks_{0};  // of a named queue: the first so many have been seen to
    std::vector<Told> told_;                        // by home seat
};

}  // namespace ringcast
