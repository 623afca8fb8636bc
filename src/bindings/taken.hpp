// Messages that a reader's end has taken out of the ring and not handed out.
//
// Objects are rebuilt after the turn has been given back, since that runs users' code. A call that is interrupted
// meanwhile, by a signal's exception or a first MemoryError, leaves what it took with the end, and the next calls of any
// thread begin there.
#pragma once

#include <nanobind/nanobind.h>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "codec.hpp"
#include "receiver.hpp"

namespace ringcast::bindings {

namespace nb = nanobind;

// A message taken out of the ring: a copy of its bytes, or a lease on its block.
struct Taken {
    nb::object buffer;
    const std::byte* bytes;
    Receiver::Message message;
    std::uint64_t position;
    Tries tries{position};
};

// A message, or in its place the exception that its rebuilding raised behind others that were handed out.
struct LeftOver {
    Taken taken;
    nb::object error;
};

class LeftOvers {
public:
    bool any() const noexcept { return count() != 0; }
    std::uint64_t count() const noexcept { return count_.load(std::memory_order_relaxed); }
    void put(Taken taken, nb::object error = {}) {
        const std::uint64_t position = taken.position;
        const std::lock_guard guard(lock_);
        messages_.emplace(position, LeftOver{std::move(taken), std::move(error)});
        note_count();
    }
    // As `count`, for who asks without knowing whether the end still lives.
    std::shared_ptr<const std::atomic<std::uint64_t>> shared_count() {
        const std::lock_guard guard(lock_);
        if (!shared_count_) shared_count_ = std::make_shared<std::atomic<std::uint64_t>>(messages_.size());
        return shared_count_;
    }
    // The oldest.
    std::optional<LeftOver> next() {
        const std::lock_guard guard(lock_);
        if (messages_.empty()) return std::nullopt;
        auto node = messages_.extract(messages_.begin());
        note_count();
        return std::move(node.mapped());
    }

    // Nobody will come for them any more.
    std::map<std::uint64_t, LeftOver> drop() {
        const std::lock_guard guard(lock_);
        std::map<std::uint64_t, LeftOver> dropped;
        dropped.swap(messages_);
        note_count();
        return dropped;
    }

private:
    void note_count() noexcept {
        count_.store(messages_.size(), std::memory_order_relaxed);
        if (shared_count_) shared_count_->store(messages_.size(), std::memory_order_relaxed);
    }

    std::mutex lock_;  // held for moments; no Python runs meanwhile
    std::map<std::uint64_t, LeftOver> messages_;
    std::atomic<std::uint64_t> count_{0};
    std::shared_ptr<std::atomic<std::uint64_t>> shared_count_;
};

}  // namespace ringcast::bindings
