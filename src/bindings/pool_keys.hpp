// Keys: the digests of a run of chunks, side by side, and the namespace that they are of.
//
// The digests lie in a buffer that slices share. What continues a run is made right behind it where there is room, and so
// joined to it without a copy. Bytes that some Keys shows never change.
#pragma once

#include <nanobind/nanobind.h>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "pool/digest.hpp"

namespace ringcast::bindings {

// A ringcast.pool.Namespace, and what native code asks of it.
struct KeySpace {
    nanobind::object object;
    pool::Digest digest;
    pool::Digest tenant;  // the salt's digest
    std::uint32_t shards;
    bool chained;  // is each key the parent of the next one?
};

// Room for digests. `used` only grows: whoever moves it on owns what is between.
class KeyBuffer {
public:
    explicit KeyBuffer(std::size_t capacity)
        : digests_(std::make_unique_for_overwrite<pool::Digest[]>(capacity)), capacity_(capacity) {}

    // Room for `count` more right behind `end`, or null.
    pool::Digest* extend(const pool::Digest* end, std::size_t count) noexcept {
        auto used = static_cast<std::size_t>(end - digests_.get());
        if (count > capacity_ - used) return nullptr;
        // relaxed: who shows the digests to other threads does so by the interpreter's means
        const bool mine = used_.compare_exchange_strong(used, used + count, std::memory_order_relaxed);
        return mine ? digests_.get() + (end - digests_.get()) : nullptr;
    }
    const pool::Digest* begin() const noexcept { return digests_.get(); }

private:
    std::unique_ptr<pool::Digest[]> digests_;
    std::size_t capacity_;
    std::atomic<std::size_t> used_{0};
};

class Keys {
public:
    Keys(std::shared_ptr<const KeySpace> space, std::shared_ptr<KeyBuffer> buffer, const pool::Digest* first,
         std::size_t count, const pool::Digest* parent)
        : space_(std::move(space)),
          buffer_(std::move(buffer)),
          first_(first),
          count_(count),
          parent_(parent == nullptr ? pool::Digest{} : *parent),
          has_parent_(parent != nullptr) {}

    std::span<const pool::Digest> digests() const noexcept { return {first_, count_}; }
    const KeySpace& space() const noexcept { return *space_; }
    const std::shared_ptr<const KeySpace>& shared_space() const noexcept { return space_; }
    // The key before the first one; null if that one begins its chain. Said whether or not the namespace is chained.
    const pool::Digest* parent() const noexcept { return has_parent_ ? &parent_ : nullptr; }
    // What the key behind these continues; null at the beginning of a chain.
    const pool::Digest* last() const noexcept { return count_ == 0 ? parent() : &first_[count_ - 1]; }

    // Keys that share a space share its reference, too: it is known whose that is where there is only one of them.
    int traverse(visitproc visit, void* arg) const {
        if (space_.use_count() == 1) Py_VISIT(space_->object.ptr());
        return 0;
    }

    Keys slice(std::size_t begin, std::size_t count) const;
    // Throws ArgumentError if these are not continued by `more`.
    Keys joined_with(const Keys& more) const;
    // Room for keys that continue these, behind them or elsewhere: give it to `continued` once it is filled.
    struct Room {
        std::shared_ptr<KeyBuffer> buffer;
        pool::Digest* digests;
    };
    Room room_behind(std::size_t count) const;
    bool operator==(const Keys& other) const noexcept;

private:
    std::shared_ptr<const KeySpace> space_;
    std::shared_ptr<KeyBuffer> buffer_;
    const pool::Digest* first_;
    std::size_t count_;
    pool::Digest parent_;
    bool has_parent_;
};

// Reads a Namespace. Raises ArgumentTypeError if it is none.
std::shared_ptr<const KeySpace> read_space(nanobind::handle space);
Keys::Room new_room(std::size_t count);

// The Keys in `object`, which keeps them alive. Raises ArgumentTypeError, which names `what`, if there are none.
const Keys& keys_of(const char* what, nanobind::handle object);
// Shorthand for most callers, whose argument is called keys.
inline std::span<const pool::Digest> digests_of(nanobind::handle keys) { return keys_of("keys", keys).digests(); }

nanobind::object digest_as_bytes(const pool::Digest& digest);

}  // namespace ringcast::bindings
