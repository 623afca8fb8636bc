// Fault points: named places in the protocols where a test can kill, stop, delay or reschedule the process.
//
// In a build with RINGCAST_FAULT_POINTS each point counts how often it is reached, and acts if it is armed; in any
// other build `reached` is empty and nothing is left of it. Points are armed for the whole process, without a lock:
// before its first use of a queue, or while others use it.
#pragma once

#ifdef RINGCAST_FAULT_POINTS
#include <sched.h>
#include <array>
#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <ctime>
#endif

// A name says what has just happened, or, ending in _begin, what is about to.
#define RINGCAST_FOR_EACH_FAULT_POINT(X)                                                           \
    X(create_opened)      /* a segment: the unnamed file exists */                                 \
    X(create_locked)      /* ... the creator's lock is held */                                     \
    X(create_reserved)    /* ... its control part has memory */                                    \
    X(create_initialised) /* ... it is complete, but has no name */                                \
    X(create_linked)                                                                               \
    X(attach_opened)                                                                               \
    X(attach_locks_opened) /* the second descriptor */                                             \
    X(attach_mapped)                                                                               \
    X(unlink_begin)       /* the creator's own */                                                  \
    X(removal_locked)     /* the right to remove what the dead left is taken, its name is there */ \
    X(removal_unlinked)   /* ... its name is gone, the right not given back */                     \
    X(data_reserve_begin) /* memory for large messages */                                          \
    X(data_reserved)      /* ... got, not yet accounted for */                                     \
    X(data_punched)       /* ... given back, not yet accounted for */                              \
    X(reserve_begin)      /* the writer looks for room */                                          \
    X(block_placed)       /* it has a block */                                                     \
    X(block_unread)       /* the block belongs to the next message */                              \
    X(block_free_begin)   /* nobody reads it any more */                                           \
    X(commit_begin)       /* the payload is written, nothing is published */                       \
    X(publish_described)                                                                           \
    X(publish_sequenced) /* readable, not counted in head */                                       \
    X(publish_headed)    /* nobody has been woken */                                               \
    X(announce_fenced)                                                                             \
    X(announce_seat_begin) /* between two wake-ups */                                              \
    X(wake_begin)          /* the sleeper's word is 0, the system call is to come */               \
    X(gate_seat_begin)     /* the writer's scan, between two seats */                              \
    X(evict_begin)                                                                                 \
    X(evict_swapped) /* before the fence and the wake-ups */                                       \
    X(ready_stored)                                                                                \
    X(close_begin)  /* the writer's end */                                                         \
    X(close_stored) /* nobody has been woken */                                                    \
    X(park_begin)   /* no condition was true, the word is not set */                               \
    X(park_stored)  /* before the fence [park] */                                                  \
    X(park_checked) /* all conditions looked at, the system call is to come */                     \
    X(park_returned)                                                                               \
    X(claim_locked)          /* a seat's lock is held, nothing is written */                       \
    X(claim_begin)           /* rank, pid and cursor are written, the state is not */              \
    X(claim_swapped)         /* ACTIVE, before the fence [join-scan] */                            \
    X(claim_positioned)      /* its cursor is at the head it found, before joined_at */            \
    X(claim_announced_begin) /* the seat is taken, the writer has not been woken */                \
    X(read_described)        /* the descriptor is copied, the payload is not */                    \
    X(consume_begin)         /* copied or leased, the cursor is old */                             \
    X(consume_stored)        /* before the fence of settle */                                      \
    X(settle_fenced)         /* before the writer is woken */                                      \
    X(mark_begin)            /* a block's last use is over */                                      \
    X(mark_stored)                                                                                 \
    X(leave_begin)                                                                                 \
    X(leave_swapped)        /* the seat is given back, the writer has not been woken */            \
    X(leave_released)       /* the seat's lock is dropped, the rank's is not */                    \
    X(desk_place_locked)    /* a place's lock is held; is the link closing? */                     \
    X(desk_place_taken)     /* its word is the new holder's, who asks nothing */                   \
    X(desk_text_word)       /* of a request or an answer so much is written */                     \
    X(desk_request_written) /* the request lies there, its word does not say so */                 \
    X(desk_asked)           /* ... it does, the link has not been woken */                         \
    X(desk_ask_end_begin)   /* the answer is copied, or the request given up; the word is old */   \
    X(desk_leave_begin)                                                                            \
    X(desk_left)           /* the place's lock is dropped, the link has not been woken */          \
    X(desk_request_taken)  /* a link: a request is copied, and will not be taken again */          \
    X(desk_reply_written)  /* ... the answer lies there, its word does not say so */               \
    X(desk_answered)       /* ... it does, who asked has not been woken */                         \
    X(desk_closing)        /* the desk says that its link looks whether anybody is there */        \
    X(desk_close_stored)   /* it says that it is closed, its name is there */                      \
    X(desk_unlinked)       /* ... its name is gone, nobody has been woken */                       \
    X(pool_described)      /* a pool's server: the entry says what is to come, and is free */      \
    X(pool_inserted)       /* ... its cell is there */                                             \
    X(pool_reserved)       /* ... it is reserved, nobody has been told */                          \
    X(pool_joined)         /* a part is given to who asked, nobody has been told */                \
    X(pool_part_begin)     /* a part's checksum is there, it does not count as committed */        \
    X(pool_part_committed) /* ... it does, not answered, and others are missing */                 \
    X(pool_commit_begin)                                                                           \
    X(pool_committed)   /* present, not answered */                                                \
    X(pool_evict_begin) /* a batch is in limbo, pins are not collected */                          \
    X(pool_in_limbo)    /* aborted or cleared, its cell is there */                                \
    X(pool_release_begin)                                                                          \
    X(pool_released)                                                                               \
    X(pool_tiered)        /* evicted, a tier has it; its block is not given back */                \
    X(pool_taken_back)    /* ... it is reserved again, and has a block */                          \
    X(pool_event_begun)   /* an event's place is being overwritten */                              \
    X(pool_event_written) /* ... it is written, and not counted */                                 \
    X(pool_space_written) /* a namespace's record is written, nobody can see it */                 \
    X(pool_answer_begin)  /* a request is done, its slot does not say so */                        \
    X(pool_answered)      /* ... it does, its client has not been woken */                         \
    X(pool_adopt_begin)   /* the server's byte is taken */                                         \
    X(pool_adopt_bounds)  /* entries that cannot be are quarantined */                             \
    X(pool_adopt_parents) /* orphans are in limbo */                                               \
    X(pool_adopt_reservations)                                                                     \
    X(pool_adopt_cells)                                                                            \
    X(pool_seat_locked) /* a client: a seat's lock is held, nothing is written */                  \
    X(pool_seat_taken)                                                                             \
    X(pool_asked)        /* the request is in its slot, the bell has not been rung */              \
    X(pool_rung)         /* ... it has, the server has not been woken */                           \
    X(pool_answer_found) /* nothing is pinned */                                                   \
    X(pool_answer_pinned)                                                                          \
    X(pool_answer_taken)                                                                           \
    X(pool_pinned) /* a retrieve: not looked at again */                                           \
    X(pool_filled) /* a store: the bytes are there, the commit is not asked for */                 \
    X(pool_unpin_begin)                                                                            \
    X(tier_file_made)      /* a FileTier's file is there, and nothing is in it */                  \
    X(tier_header_written) /* ... its header is, and is not synced */                              \
    X(tier_grown)          /* ... it has its length */                                             \
    X(tier_claimed)        /* a slot is out of the index, nothing is written */                    \
    X(tier_block_written)  /* a write to the file went so far */                                   \
    X(tier_written)        /* chunk and header are in the file, and not in the index */            \
    X(tier_erase_begin)    /* out of the index, and in the file */                                 \
    X(tier_erased)                                                                                 \
    X(tier_era_raised) /* in memory, and not in the file */

namespace ringcast {

enum class FaultPoint {
#define RINGCAST_ENUMERATOR(name) name,
    RINGCAST_FOR_EACH_FAULT_POINT(RINGCAST_ENUMERATOR)
#undef RINGCAST_ENUMERATOR
};

#ifdef RINGCAST_FAULT_POINTS

inline constexpr std::array fault_point_names{
#define RINGCAST_NAME(name) #name,
    RINGCAST_FOR_EACH_FAULT_POINT(RINGCAST_NAME)
#undef RINGCAST_NAME
};

// kill and stop happen once, at the nth time; delay and yield from the nth time on.
enum class FaultAction : std::uint32_t { none, kill, stop, delay, yield };

struct Fault {
    std::atomic<FaultAction> action{FaultAction::none};  // release [arm]
    std::atomic<std::uint64_t> nth{0};
    std::atomic<std::int64_t> delay_ns{0};
    std::atomic<std::uint64_t> times_reached{0};
};
inline std::array<Fault, fault_point_names.size()> faults;

inline void arm_fault(std::size_t point, FaultAction action, std::uint64_t nth, std::int64_t delay_ns) noexcept {
    Fault& fault = faults[point];
    fault.action.store(FaultAction::none, std::memory_order_relaxed);
    fault.times_reached.store(0, std::memory_order_relaxed);
    fault.nth.store(nth, std::memory_order_relaxed);
    fault.delay_ns.store(delay_ns, std::memory_order_relaxed);
    fault.action.store(action, std::memory_order_release);  // release [arm]
}

inline void reached(FaultPoint point) noexcept {
    Fault& fault = faults[static_cast<std::size_t>(point)];
    const std::uint64_t time = fault.times_reached.fetch_add(1, std::memory_order_relaxed) + 1;
    const FaultAction action = fault.action.load(std::memory_order_acquire);  // acquire [arm]
    const std::uint64_t nth = fault.nth.load(std::memory_order_relaxed);
    if (action == FaultAction::kill && time == nth) raise(SIGKILL);
    if (action == FaultAction::stop && time == nth) raise(SIGSTOP);
    if (action == FaultAction::yield && time >= nth) sched_yield();
    if (action == FaultAction::delay && time >= nth) {
        const std::int64_t ns = fault.delay_ns.load(std::memory_order_relaxed);
        const timespec span{.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
        nanosleep(&span, nullptr);
    }
}

#else

constexpr void reached(FaultPoint) noexcept {}

#endif

}  // namespace ringcast
