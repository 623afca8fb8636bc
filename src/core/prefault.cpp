#include "prefault.hpp"

#include <algorithm>
#include <bit>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "platform/process.hpp"
#include "platform/shared_file.hpp"
#include "threads.hpp"

namespace ringcast {

namespace {

// What a thread takes at a time: whole huge pages, and tens of milliseconds at most.
constexpr std::uint64_t kPiece = std::uint64_t{64} << 20;
constexpr std::uint64_t kMostThreads = 16;

std::uint64_t threads_for(std::uint64_t pieces) {
    std::uint64_t cpus = 0;
    for (const std::uint64_t word : platform::allowed_cpus()) cpus += static_cast<std::uint64_t>(std::popcount(word));
    return std::clamp<std::uint64_t>(std::min<std::uint64_t>({pieces, cpus, platform::cpu_quota()}), 1, kMostThreads);
}

class Prefault {
public:
    Prefault(std::byte* begin, std::uint64_t bytes) : begin_(begin), bytes_(bytes) {
        const std::uint64_t count = threads_for((bytes + kPiece - 1) / kPiece);
        threads_.reserve(count);
        try {
            while (threads_.size() < count) threads_.push_back(start_without_signals([this] { run(); }));
        } catch (const std::system_error&) {
            if (threads_.empty()) throw;  // fewer do it as well
        }
    }
    ~Prefault() {
        {
            const std::lock_guard guard(mutex_);
            next_ = bytes_;
        }
        for (auto& thread : threads_) thread.join();
    }
    Prefault(const Prefault&) = delete;
    Prefault& operator=(const Prefault&) = delete;

    void wait(const Progress& progress) {
        std::unique_lock lock(mutex_);
        for (std::uint64_t told = 0;;) {
            lock.unlock();
            if (progress) progress(told, bytes_);
            lock.lock();
            if (told == bytes_) return;
            advanced_.wait(lock, [&] { return done_ != told; });
            told = done_;
        }
    }

private:
    void run() noexcept {
        std::unique_lock lock(mutex_);
        while (next_ < bytes_) {
            const std::uint64_t from = next_;
            const std::uint64_t piece = std::min(kPiece, bytes_ - from);
            next_ += piece;
            lock.unlock();
            platform::populate(begin_ + from, piece);
            lock.lock();
            done_ += piece;
            advanced_.notify_one();
        }
    }

    std::byte* const begin_;
    const std::uint64_t bytes_;
    std::mutex mutex_;
    std::condition_variable advanced_;
    std::uint64_t next_ = 0;
    std::uint64_t done_ = 0;
    std::vector<std::thread> threads_;
};

}  // namespace

void prefault(std::byte* begin, std::uint64_t bytes, const Progress& progress) {
    Prefault(begin, bytes).wait(progress);
}

}  // namespace ringcast
