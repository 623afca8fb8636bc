// What the core throws. Each code becomes one Python exception type in the bindings; the message is for people.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>
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
    link_died,
    reader_died,
    reader_left,
    queue_full,
    tier,
    link,
    system,
};

// Whom an error is about.
struct Peer {
    std::optional<std::uint32_t> rank;  // none: the writer, or no certain one
    std::uint32_t pid;
};

class Error : public std::runtime_error {
public:
    Error(ErrorCode code, const std::string& message, int system_errno = 0)
        : std::runtime_error(message), code_(code), errno_(system_errno) {}
    Error(ErrorCode code, const std::string& message, const std::optional<Peer>& peer, int system_errno = 0)
        : std::runtime_error(message), code_(code), errno_(system_errno), peer_(peer) {}
    ErrorCode code() const noexcept { return code_; }
    int system_errno() const noexcept { return errno_; }
    const std::optional<Peer>& peer() const noexcept { return peer_; }

private:
    ErrorCode code_;
    int errno_ = 0;
    std::optional<Peer> peer_;
};

[[noreturn]] inline void throw_system_error(const std::string& what, int error = errno) {
    throw Error(ErrorCode::system, what + ": " + std::strerror(error), error);
}

}  // namespace ringcast
