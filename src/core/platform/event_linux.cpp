// Linux: an eventfd.
#include "platform/event.hpp"

#include <sys/eventfd.h>
#include <unistd.h>
#include <cerrno>
#include <system_error>

namespace ringcast::platform {

Event::Event() : read_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), write_(read_) {
    if (read_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}
Event::~Event() { ::close(read_); }
void Event::set() noexcept { eventfd_write(write_, 1); }
void Event::clear() noexcept {
    eventfd_t count;
    eventfd_read(read_, &count);
}

}  // namespace ringcast::platform
