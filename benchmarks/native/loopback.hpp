// TCP over loopback, for processes that are forked with the socket that listens: both sides of a connection, and moving
// whole blocks of bytes through it.
#pragma once

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "common.hpp"

namespace floor_program {

[[noreturn]] inline void fail(const char* what) {
    throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

// A connection's own end; closed with it.
class Stream {
public:
    explicit Stream(int socket) : socket_(socket) {
        const int one = 1;
        if (socket_ < 0 || setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0) {
            fail("cannot connect over loopback");
        }
    }
    ~Stream() { close(socket_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    void send_all(const void* bytes, std::size_t length, bool more = false) const {
        const char* from = static_cast<const char*>(bytes);
        while (length > 0) {
            const ssize_t sent = send(socket_, from, length, MSG_NOSIGNAL | (more ? MSG_MORE : 0));
            if (sent < 0 && errno != EINTR) {
                fail("send");
            }
            from += std::max<ssize_t>(sent, 0);
            length -= static_cast<std::size_t>(std::max<ssize_t>(sent, 0));
        }
    }

    // What there is, at least a byte; 0 at the end of the stream.
    std::size_t receive_some(void* bytes, std::size_t most) const {
        for (;;) {
            const ssize_t received = recv(socket_, bytes, most, 0);
            if (received >= 0) {
                return static_cast<std::size_t>(received);
            }
            if (errno != EINTR) {
                fail("recv");
            }
        }
    }

    // False at the end of the stream.
    bool receive_all(void* bytes, std::size_t length) const {
        char* to = static_cast<char*>(bytes);
        while (length > 0) {
            const std::size_t received = receive_some(to, length);
            if (received == 0) {
                return false;
            }
            to += received;
            length -= received;
        }
        return true;
    }

    void end() const { shutdown(socket_, SHUT_WR); }

private:
    int socket_;
};

// A socket that listens at a free port of loopback.
class Listening {
public:
    Listening() : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        address_.sin_family = AF_INET;
        address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t length = sizeof address_;
        if (socket_ < 0 || bind(socket_, generic(), length) != 0 || listen(socket_, 1) != 0 ||
            getsockname(socket_, generic(), &length) != 0) {
            fail("cannot listen on loopback");
        }
    }
    ~Listening() { close(socket_); }
    Listening(const Listening&) = delete;
    Listening& operator=(const Listening&) = delete;

    int accepted() const { return accept(socket_, nullptr, nullptr); }

    int connected() {
        const int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (made < 0 || connect(made, generic(), sizeof address_) != 0) {
            fail("cannot connect over loopback");
        }
        return made;
    }

private:
    sockaddr* generic() { return reinterpret_cast<sockaddr*>(&address_); }

    int socket_;
    sockaddr_in address_{};
};

}  // namespace floor_program
