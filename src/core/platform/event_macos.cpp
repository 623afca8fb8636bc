// macOS: a pipe.
#include "platform/event.hpp"

#include <fcntl.h>
#include <unistd.h>
#include <cerrno>
#include <system_error>

namespace ringcast::platform {

Event::Event() {
    int ends[2];
    if (::pipe(ends) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
    for (const int end : ends) {
        ::fcntl(end, F_SETFD, FD_CLOEXEC);
        ::fcntl(end, F_SETFL, O_NONBLOCK);
    }
    read_ = ends[0];
    write_ = ends[1];
}
Event::~Event() {
    ::close(read_);
    ::close(write_);
}
void Event::set() noexcept {
    const char byte = 0;
    [[maybe_unused]] const auto written = ::write(write_, &byte, 1);
}
void Event::clear() noexcept {
    char bytes[64];
    while (::read(read_, bytes, sizeof bytes) > 0) {
    }
}

}  // namespace ringcast::platform
