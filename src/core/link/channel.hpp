// One connection between two links: records of up to 1 MiB, each proven before a byte of it is believed.
//
//     u32 length | u8 kind | 3 zero bytes | payload | 16 bytes of tag
//
// The payload is sealed, or, without `encrypt`, in the clear and only proven. Kind and place in the order are part of the
// tag's nonce; so a record that is changed, left out, repeated or taken from elsewhere ends the connection. Memory is bounded,
// whatever the other side says: a buffer for one record and some small ones.
//
// Several threads may send, one may receive, and any may close.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "link/cipher.hpp"
#include "link/socket.hpp"
#include "link/wire.hpp"

namespace ringcast::link {

// The connection has ended. `forged`: what came is not what the other side sent.
class ChannelEnded : public std::runtime_error {
public:
    ChannelEnded(const std::string& message, bool forged) : std::runtime_error(message), forged_(forged) {}
    bool forged() const noexcept { return forged_; }

private:
    bool forged_;
};

class Channel {
public:
    // Takes the descriptor of a connected, blocking socket over. `peer` says who is at the other side, in messages.
    Channel(int descriptor, std::shared_ptr<Cipher> sending, std::shared_ptr<Cipher> receiving, bool encrypt,
            std::string peer);

    // Sends one record, and waits until the system has taken all of it. `more` follow at once. Throws ChannelEnded; what the
    // other side sent before can still be received.
    void send(std::uint8_t kind, Pieces payload, bool more = false);
    void send(Kind kind, Piece payload, bool more = false) {
        send(static_cast<std::uint8_t>(kind), {&payload, 1}, more);
    }
    // Sends the record that shows that this side, which dialled, has the key.
    void prove() {
        send(0, {});
        sent_bytes_.store(0, std::memory_order_relaxed);
    }

    // Waits until there is a whole record, or the end, so that `next` and `read` will not wait; false: the time is over.
    bool await_record(std::int64_t until_ns);
    struct Record {
        std::uint8_t kind;
        std::uint32_t length;
        bool is(Kind wanted) const noexcept { return kind == static_cast<std::uint8_t>(wanted); }
    };
    // Is the record that `await_record` has found such a one?
    bool next_is(Kind kind, std::size_t length) const noexcept;
    // What was not read of the last one is left out. Throws ChannelEnded, as all that follow do.
    Record next();
    // The payload of the record that `next` has told of, proven; valid until `next` or `await_record`.
    Piece read();
    // The same into memory of its length, which holds garbage if this throws: it is opened there, or, in the clear, received.
    void read_into(std::byte* target);
    // Is there a record whose payload was not read?
    bool has_unread() const noexcept { return has_unread_; }
    std::uint32_t unread_bytes() const noexcept { return unread_; }

    // From now on a `send` that the other side keeps waiting for so long ends the connection.
    void limit_sending(double seconds) noexcept;
    // Calls of other threads end with ChannelEnded. What was sent last may not arrive any more.
    void close() noexcept { socket_.end(); }
    bool closed() const noexcept { return socket_.ended(); }
    int descriptor() const noexcept { return closed() ? -1 : socket_.descriptor(); }
    const std::string& peer() const noexcept { return peer_; }

    // Of the wire, after the handshake.
    std::uint64_t sent_bytes() const noexcept { return sent_bytes_.load(std::memory_order_relaxed); }
    std::uint64_t received_bytes() const noexcept { return received_bytes_.load(std::memory_order_relaxed); }
    // When the last record was proven.
    std::int64_t heard_ns() const noexcept { return heard_ns_.load(std::memory_order_relaxed); }
    // Calls of the system that have received, and the bytes of them that were received where they stay.
    std::uint64_t receives() const noexcept { return receives_.load(std::memory_order_relaxed); }
    std::uint64_t placed_bytes() const noexcept { return placed_bytes_.load(std::memory_order_relaxed); }

    const Cipher& sending() const noexcept { return *sending_; }
    const Cipher& receiving() const noexcept { return *receiving_; }

private:
    enum class Came { some, none_yet, ended };

    void put(std::vector<iovec>& pieces, bool more);
    std::byte* taken_record();
    void check(bool proven);
    bool has_record();
    RecordHead head();
    void fill(std::size_t need);
    Came receive(std::size_t most, bool waits);
    void receive_into(std::span<std::byte> target);
    Came came(iovec* room, int rooms, bool waits, std::size_t& got);
    std::size_t buffered() const noexcept { return end_ - begin_; }
    void end_forged(const char* what);
    [[noreturn]] void throw_ended(const std::string& why) const;

    Socket socket_;
    const std::shared_ptr<Cipher> sending_, receiving_;
    const bool encrypt_;
    const std::string peer_;

    std::mutex sending_mutex_;  // what is below it, and the cipher
    std::unique_ptr<std::byte[]> sealed_;
    std::vector<iovec> outgoing_;
    std::string no_more_sent_;  // why

    std::unique_ptr<std::byte[]> buffer_;
    std::size_t begin_ = 0, end_ = 0;  // of what was received and not read
    bool has_unread_ = false;
    std::uint8_t kind_ = 0;
    std::uint32_t unread_ = 0;  // the payload's length
    std::string no_more_received_;

    std::atomic<const char*> forged_{nullptr};  // what came
    std::atomic<std::uint64_t> sent_bytes_{0}, received_bytes_{0}, receives_{0}, placed_bytes_{0};
    std::atomic<std::int64_t> heard_ns_{0};
};

}  // namespace ringcast::link
