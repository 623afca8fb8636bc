// What the core throws. Each code becomes one Python exception type in the bindings; the message is for people.
#pragma once

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

namespace ringcast {

enum class ErrorCode {
    invalid_argument,
    segment_not_found,
    segment_exists,
    segment_permission,
    segment_mismatch,
    capacity,
    message_too_large,
    rank_taken,
    rank_unknown,
    closed,
    corrupt,
    reader_evicted,
    writer_died,
    reader_died,
    system,
};

class Error : public std::runtime_error {
public:
    Error(ErrorCode code, const std::string& message, int system_errno = 0)
        : std::runtime_error(message), code_(code), errno_(system_errno) {}
    ErrorCode code() const noexcept { return code_; }
    int system_errno() const noexcept { return errno_; }

private:
    ErrorCode code_;
    int errno_;
};

[[noreturn]] inline void throw_system_error(const std::string& what, int error = errno) {
    throw Error(ErrorCode::system, what + ": " + std::strerror(error), error);
}

}  // namespace ringcast
