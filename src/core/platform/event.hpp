// A descriptor that can be read from `set` to `clear`, for epoll and its like.
#pragma once

namespace ringcast::platform {

class Event {
public:
    Event();  // throws std::system_error
    ~Event();
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;

    int descriptor() const noexcept { return read_; }
    void set() noexcept;
    void clear() noexcept;

private:
    int read_;
    int write_;
};

}  // namespace ringcast::platform
