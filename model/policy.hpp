// The platform policy whose atomics, fences, copies and futexes are the model's.
#pragma once

#include <cstring>
#include <vector>

#include "engine/explorer.hpp"
#include "platform/futex.hpp"

namespace model {

template <class T>
class Atomic {
public:
    Atomic() = default;
    explicit Atomic(T initial) : initial_(initial) {}
    Atomic(const Atomic&) = delete;
    Atomic& operator=(const Atomic&) = delete;

    T load(std::memory_order order, Site site = Site::current()) const {
        if (!Explorer::the().running()) return initial_;
        return static_cast<T>(Explorer::the().load(id(), order, site));
    }
    // Before the threads run: the initial value.
    void store(T value, std::memory_order order, Site site = Site::current()) {
        if (Explorer::the().running()) return Explorer::the().store(id(), value, order, site);
        initial_ = value;
    }
    T exchange(T value, std::memory_order order, Site site = Site::current()) {
        return static_cast<T>(Explorer::the().exchange(id(), value, order, site));
    }
    bool compare_exchange_strong(T& expected, T desired, std::memory_order success, std::memory_order failure,
                                 Site site = Site::current()) {
        std::uint64_t value = expected;
        const bool swapped = Explorer::the().compare_exchange(id(), value, desired, success, failure, site);
        expected = static_cast<T>(value);
        return swapped;
    }
    bool compare_exchange_strong(T& expected, T desired, std::memory_order order, Site site = Site::current()) {
        const auto failure = order == std::memory_order_acq_rel   ? std::memory_order_acquire
                             : order == std::memory_order_release ? std::memory_order_relaxed
                                                                  : order;
        return compare_exchange_strong(expected, desired, order, failure, site);
    }
    // Never fails without a reason: one more turn of the loop around it would change nothing.
    bool compare_exchange_weak(T& expected, T desired, std::memory_order success, std::memory_order failure,
                               Site site = Site::current()) {
        return compare_exchange_strong(expected, desired, success, failure, site);
    }

    T fetch_add(T by, std::memory_order order, Site site = Site::current()) {
        T value = load(std::memory_order_relaxed, site);
        while (!compare_exchange_strong(value, static_cast<T>(value + by), order, std::memory_order_relaxed, site)) {
        }
        return value;
    }

    std::uint32_t id() const {
        if (id_ == kNone) id_ = Explorer::the().add_location(initial_, this);
        return id_;
    }

private:
    static constexpr std::uint32_t kNone = UINT32_MAX;
    T initial_{};
    mutable std::uint32_t id_ = kNone;  // given at the first use, so that what is never used costs nothing
};

// Where plain bytes are shared. Bytes elsewhere are a thread's own.
struct SharedBytes {
    static inline const std::byte* begin = nullptr;
    static inline const std::byte* strict = nullptr;  // from here on nobody may ever race; before, evicted readers may
    static inline const std::byte* end = nullptr;
    static bool holds(const void* address) { return address >= begin && address < end; }
};

struct Policy {
    template <class T>
    using atomic = Atomic<T>;
    using futex_word = Atomic<std::uint32_t>;

    static void fence_seq_cst(Site site = Site::current()) { Explorer::the().fence(std::memory_order_seq_cst, site); }
    static void fence_acquire(Site site = Site::current()) { Explorer::the().fence(std::memory_order_acquire, site); }
    static void fence_release(Site site = Site::current()) { Explorer::the().fence(std::memory_order_release, site); }

    // One piece of shared bytes is copied as a whole: whether a copy can be torn is a matter of races, not of sizes.
    static void copy(void* to, const void* from, std::size_t bytes, Site site = Site::current()) {
        Value value{};
        if (bytes > sizeof value) std::abort();
        if (SharedBytes::holds(from)) {
            value = Explorer::the().read_bytes(from, from < SharedBytes::strict, site);
            std::memcpy(to, &value, bytes);
        } else {
            std::memcpy(&value, from, bytes);
            Explorer::the().write_bytes(to, value, to < SharedBytes::strict, site);
        }
    }

    static ringcast::platform::FutexResult futex_wait(futex_word& word, std::uint32_t expected, std::int64_t,
                                                      Site site = Site::current()) {
        return Explorer::the().futex_wait(word.id(), expected, site) == WaitResult::woken
                   ? ringcast::platform::FutexResult::woken
                   : ringcast::platform::FutexResult::timed_out;
    }
    static ringcast::platform::WaitedForAny futex_wait_any(futex_word* const* words, std::uint32_t count,
                                                           std::uint32_t expected, std::int64_t,
                                                           Site site = Site::current()) {
        std::vector<std::uint32_t> ids;
        for (std::uint32_t i = 0; i < count; ++i) ids.push_back(words[i]->id());
        const auto waited = Explorer::the().futex_wait_any(ids, expected, site);
        const auto result = waited.result == WaitResult::woken ? ringcast::platform::FutexResult::woken
                                                               : ringcast::platform::FutexResult::timed_out;
        return {result, waited.word.value_or(ringcast::platform::kWhichever)};
    }
    static void futex_wake_all(futex_word& word, Site site = Site::current()) {
        Explorer::the().futex_wake(word.id(), site);
    }

    // Time stands still while anything else can happen, and then goes to the end of every wait.
    static std::int64_t now_ns() { return 0; }
    static void pause() {}
    static void yield() {}

    // Fault points are for killing real processes; the model kills anywhere.
    template <class Point>
    static void reached(Point) {}
};

// What the generated headers say in place of `order`, and of a fence.
inline std::memory_order order(int id, std::memory_order order) {
    Explorer& explorer = Explorer::the();
    return explorer.is_weakened(id) ? explorer.mutant_order() : order;
}
inline void fence(int id, std::memory_order order, Site site = Site::current()) {
    Explorer::the().fence(model::order(id, order), site);
}
inline bool edited(int id) { return Explorer::the().is_weakened(id); }

}  // namespace model
