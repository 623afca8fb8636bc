// A connected socket that several threads use and any may end.
#pragma once

#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace ringcast::link {

// While a call is in the system, the descriptor stays open, so that no other file gets its number.
class Socket {
public:
    explicit Socket(int descriptor) noexcept : descriptor_(descriptor) {}
    ~Socket() { end(); }
    Socket(const Socket&) = delete;
    Socket& operator=(const Socket&) = delete;

    class Use {
    public:
        explicit Use(Socket& socket) noexcept : socket_(socket), granted_(socket.enter()) {}
        ~Use() {
            if (granted_) socket_.leave();
        }
        Use(const Use&) = delete;
        Use& operator=(const Use&) = delete;
        explicit operator bool() const noexcept { return granted_; }

    private:
        Socket& socket_;
        bool granted_;
    };

    int descriptor() const noexcept { return descriptor_; }
    bool ended() const noexcept { return (state_.load(std::memory_order_acquire) & kEnded) != 0; }  // acquire [socket]

    // Calls of other threads end, too; the last of them closes the descriptor.
    void end() noexcept {
        if (!enter()) return;
        // acq_rel [socket]: who sees it ended sees what led to that.
        if ((state_.fetch_or(kEnded, std::memory_order_acq_rel) & kEnded) == 0) ::shutdown(descriptor_, SHUT_RDWR);
        leave();
    }

private:
    static constexpr std::uint32_t kEnded = std::uint32_t{1} << 31;  // beside the number of users

    bool enter() noexcept {
        std::uint32_t state = state_.load(std::memory_order_relaxed);
        do {
            if ((state & kEnded) != 0) return false;
        } while (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire));  // acquire [socket]
        return true;
    }
    void leave() noexcept {
        // acq_rel [socket]: the descriptor is closed after all that others did with it.
        if (state_.fetch_sub(1, std::memory_order_acq_rel) == (kEnded | 1)) ::close(descriptor_);
    }

    const int descriptor_;
    std::atomic<std::uint32_t> state_{0};
};

}  // namespace ringcast::link
