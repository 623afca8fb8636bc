// A writer's arena, and the thread that gives its idle memory back.
//
// Nobody but the writer knows which blocks are free, and a writer that has nothing to send makes no calls: so a thread of its
// process looks once a second, for as long as there is memory that may become idle, and ends when there is none. It takes no
// turn, runs no Python and gets no signals. All that it shares with the writer's calls is the arena, behind a lock that it
// holds for one bounded piece of work at a time; after `stop` it touches neither that nor the segment.
//
// A forked child has no such thread and never uses the arena, which may be locked, or half changed, there: what a thread of
// the parent refers to is never destroyed in the child.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>

#include "arena.hpp"

namespace ringcast {

class ArenaKeeper {
    struct Shared;

public:
    explicit ArenaKeeper(Segment& segment);

    // The arena; nobody else uses it for as long as this lives.
    class Locked {
    public:
        explicit Locked(Shared& shared);
        Arena* operator->() const noexcept { return &arena_; }

    private:
        std::unique_lock<std::mutex> guard_;
        Arena& arena_;
    };
    Locked lock() const { return Locked(*shared_); }

    // Memory has been taken, in this locked state: it will be given back when it is idle.
    void watch(const Locked& arena);
    void stop() noexcept;

private:
    struct Shared {
        explicit Shared(Segment& segment) : arena(segment), ring(segment.ring()) {}
        std::mutex mutex;
        std::condition_variable stopping;
        Arena arena;
        RingView<platform::Native> ring;
        bool watched = false;  // there is a thread
        bool stopped = false;
    };
    static void keep(const std::shared_ptr<Shared>& shared) noexcept;
    static bool give_back(Shared& shared, std::unique_lock<std::mutex>& guard) noexcept;

    std::shared_ptr<Shared> shared_;
};

inline ArenaKeeper::Locked::Locked(Shared& shared) : guard_(shared.mutex), arena_(shared.arena) {}

}  // namespace ringcast
