#include "link/channel.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "platform/clock.hpp"

namespace ringcast::link {

namespace {

constexpr std::size_t kHead = sizeof(RecordHead);
// Up to so many, a copy is cheaper than more pieces for the system call.
constexpr std::size_t kJoinedBytes = 4 << 10;
// What a call asks for where small records may follow: enough for hundreds, and little to copy of a large one.
constexpr std::size_t kReceiveBytes = 64 << 10;
constexpr std::size_t kBufferBytes = kMaxRecord + kTagBytes + 2 * kHead + kReceiveBytes;
// Small records go through so much of the buffer, and not through all of it, which no near cache holds.
constexpr std::size_t kWarmBytes = kBatchBytes + 2 * kReceiveBytes;
constexpr std::int64_t kNsPerMs = 1'000'000;
// A queue may be idle for hours, and what translates addresses on the way forgets connections over which nothing goes, some
// within minutes, without a word.
constexpr int kKeepIdleSeconds = 60;
#if defined(TCP_KEEPIDLE)
constexpr int kKeepIdle = TCP_KEEPIDLE;
#else
constexpr int kKeepIdle = TCP_KEEPALIVE;
#endif

#if defined(MSG_NOSIGNAL)
constexpr int kNoSignal = MSG_NOSIGNAL;
#else
constexpr int kNoSignal = 0;
#endif
#if defined(MSG_MORE)
constexpr int kMore = MSG_MORE;
#else
constexpr int kMore = 0;
#endif

iovec piece_of(const std::byte* bytes, std::size_t length) noexcept {
    return {const_cast<std::byte*>(bytes), length};  // the system's type is for both ways
}

bool can_be(const RecordHead& head) noexcept {
    return head.length <= kMaxRecord && head.kind != 0 && head.zeros[0] == 0 && head.zeros[1] == 0 &&
           head.zeros[2] == 0;
}

// Until then, rounded up, in what `poll` takes.
int milliseconds_until(std::int64_t until_ns) noexcept {
    const std::int64_t now = platform::monotonic_ns();
    if (until_ns <= now) return 0;
    return static_cast<int>(std::min<std::int64_t>((until_ns - now - 1) / kNsPerMs + 1, INT_MAX));
}

}  // namespace

Channel::Channel(int descriptor, std::shared_ptr<Cipher> sending, std::shared_ptr<Cipher> receiving, bool encrypt,
                 std::string peer)
    : socket_(descriptor),
      sending_(std::move(sending)),
      receiving_(std::move(receiving)),
      encrypt_(encrypt),
      peer_(std::move(peer)),
      sealed_(new std::byte[kHead + (encrypt ? kMaxRecord : kJoinedBytes) + kTagBytes]),
      buffer_(new std::byte[kBufferBytes]) {
    const int on = 1;
    static_cast<void>(::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
    static_cast<void>(::setsockopt(descriptor, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on));
    static_cast<void>(::setsockopt(descriptor, IPPROTO_TCP, kKeepIdle, &kKeepIdleSeconds, sizeof kKeepIdleSeconds));
#if defined(SO_NOSIGPIPE)
    static_cast<void>(::setsockopt(descriptor, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on));
#endif
}

void Channel::send(std::uint8_t kind, Pieces payload, bool more) {
    std::size_t length = 0;
    for (const Piece piece : payload) length += piece.size();
    if (length > kMaxRecord) throw std::length_error("a record of " + std::to_string(length) + " bytes");
    const std::lock_guard guard(sending_mutex_);
    if (!no_more_sent_.empty() || closed()) throw_ended(no_more_sent_);
    const RecordHead head{static_cast<std::uint32_t>(length), kind, {}};
    std::byte tag[kTagBytes];
    outgoing_.clear();
    // What ends this in the middle leaves a part of a record behind, so that nothing can be sent after it.
    no_more_sent_ = "a record was sent in part";
    if (encrypt_ || length <= kJoinedBytes) {
        std::memcpy(sealed_.get(), &head, kHead);
        std::byte* at = sealed_.get() + kHead;
        if (encrypt_) {
            sending_->seal(kind, payload, at);
        } else {
            for (const Piece piece : payload) {
                if (!piece.empty()) std::memcpy(at, piece.data(), piece.size());
                at += piece.size();
            }
            sending_->sign(kind, payload, at);
        }
        outgoing_.push_back(piece_of(sealed_.get(), kHead + length + kTagBytes));
    } else {
        sending_->sign(kind, payload, tag);
        outgoing_.push_back(piece_of(reinterpret_cast<const std::byte*>(&head), kHead));
        for (const Piece piece : payload) outgoing_.push_back(piece_of(piece.data(), piece.size()));
        outgoing_.push_back(piece_of(tag, kTagBytes));
    }
    put(outgoing_, more);
    no_more_sent_.clear();
    sent_bytes_.fetch_add(kHead + length + kTagBytes, std::memory_order_relaxed);
}

// With the mutex.
void Channel::put(std::vector<iovec>& pieces, bool more) {
    constexpr std::size_t kMostPieces = 1024;  // of one call
    const Socket::Use use(socket_);
    if (!use) throw_ended("");
    std::size_t first = 0;
    while (first < pieces.size()) {
        msghdr message{};
        message.msg_iov = pieces.data() + first;
        message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(std::min(pieces.size() - first, kMostPieces));
        ssize_t sent = ::sendmsg(socket_.descriptor(), &message, kNoSignal | (more ? kMore : 0));
        if (sent < 0) {
            if (errno == EINTR) continue;
            no_more_sent_ =
                errno == EAGAIN || errno == EWOULDBLOCK ? "the other side takes nothing" : std::strerror(errno);
            throw_ended(no_more_sent_);
        }
        for (; first < pieces.size() && static_cast<std::size_t>(sent) >= pieces[first].iov_len; ++first)
            sent -= static_cast<ssize_t>(pieces[first].iov_len);
        if (first < pieces.size()) {
            pieces[first].iov_base = static_cast<std::byte*>(pieces[first].iov_base) + sent;
            pieces[first].iov_len -= static_cast<std::size_t>(sent);
        }
    }
}

bool Channel::await_record(std::int64_t until_ns) {
    while (!has_record()) {
        switch (receive(kReceiveBytes, false)) {
            case Came::some:
                continue;
            case Came::ended:
                return true;  // which `next` tells
            case Came::none_yet:
                break;
        }
        const int patience = milliseconds_until(until_ns);
        if (patience == 0) return false;
        const Socket::Use use(socket_);
        if (!use) return true;
        pollfd wanted{socket_.descriptor(), POLLIN, 0};
        static_cast<void>(::poll(&wanted, 1, patience));
    }
    return true;
}

bool Channel::next_is(Kind kind, std::size_t length) const noexcept {
    if (has_unread_ || closed() || buffered() < kHead + length + kTagBytes) return false;
    const RecordHead wanted{static_cast<std::uint32_t>(length), static_cast<std::uint8_t>(kind), {}};
    return std::memcmp(buffer_.get() + begin_, &wanted, kHead) == 0;
}

Channel::Record Channel::next() {
    if (closed()) throw_ended("");
    if (has_unread_) static_cast<void>(read());
    fill(kHead);
    const RecordHead found = head();
    begin_ += kHead;
    kind_ = found.kind;
    unread_ = found.length;
    has_unread_ = true;
    return {kind_, unread_};
}

Piece Channel::read() {
    const std::size_t length = unread_;
    std::byte* const payload = taken_record();
    if (encrypt_)
        check(receiving_->open(kind_, {payload, length + kTagBytes}, payload));
    else
        check(receiving_->verify(kind_, {payload, length}, payload + length));
    return {payload, length};
}

void Channel::read_into(std::byte* target) {
    const std::size_t length = unread_;
    if (encrypt_) {
        check(receiving_->open(kind_, {taken_record(), length + kTagBytes}, target));
        return;
    }
    has_unread_ = false;
    const std::size_t got = std::min(buffered(), length);
    if (got != 0) std::memcpy(target, buffer_.get() + begin_, got);
    begin_ += got;
    if (got < length) receive_into({target + got, length - got});
    fill(kTagBytes);
    const std::byte* const tag = buffer_.get() + begin_;
    begin_ += kTagBytes;
    check(receiving_->verify(kind_, {target, length}, tag));
}

// The payload that `next` has told of and its tag, in the buffer, as they came.
std::byte* Channel::taken_record() {
    has_unread_ = false;
    const std::size_t length = unread_ + kTagBytes;
    fill(length);
    std::byte* const record = buffer_.get() + begin_;
    begin_ += length;
    return record;
}

void Channel::check(bool proven) {
    if (!proven) end_forged("a record with a wrong proof");
    heard_ns_.store(platform::monotonic_ns(), std::memory_order_relaxed);
}

// Is nothing left to wait for?
bool Channel::has_record() {
    if (!no_more_received_.empty() || closed()) return true;
    if (has_unread_) return buffered() >= unread_ + kTagBytes;
    if (buffered() < kHead) return false;
    RecordHead found;
    std::memcpy(&found, buffer_.get() + begin_, kHead);
    return !can_be(found) || buffered() >= kHead + found.length + kTagBytes;
}

RecordHead Channel::head() {
    RecordHead found;
    std::memcpy(&found, buffer_.get() + begin_, kHead);
    if (!can_be(found)) end_forged("something that is no record");
    return found;
}

// Until so many bytes are in the buffer; the next record's head may come with them.
void Channel::fill(std::size_t need) {
    while (buffered() < need)
        if (receive(std::max(need - buffered() + kHead, kReceiveBytes), true) == Came::ended) {
            begin_ = end_ = 0;  // a part of a record, which is not to be taken for another one
            throw_ended(no_more_received_);
        }
}

// One call, into the buffer, where a record of any length has room behind what is unread.
Channel::Came Channel::receive(std::size_t most, bool waits) {
    if (begin_ != 0 && (end_ + most > kWarmBytes || buffered() == 0)) {
        std::memmove(buffer_.get(), buffer_.get() + begin_, buffered());
        end_ = buffered();
        begin_ = 0;
    }
    iovec room{buffer_.get() + end_, most};
    std::size_t got = 0;
    const Came found = came(&room, 1, waits, got);
    end_ += got;
    return found;
}

// A record's rest; its tag and the next head, if they come with it, go into the buffer, which is empty.
void Channel::receive_into(std::span<std::byte> target) {
    begin_ = end_ = 0;
    while (!target.empty()) {
        iovec rooms[]{{target.data(), target.size()}, {buffer_.get(), kTagBytes + kHead}};
        std::size_t got = 0;
        if (came(rooms, 2, true, got) == Came::ended) throw_ended(no_more_received_);
        const std::size_t placed = std::min(got, target.size());
        placed_bytes_.fetch_add(placed, std::memory_order_relaxed);
        target = target.subspan(placed);
        end_ = got - placed;
    }
}

// One call. `no_more_received_` says why nothing comes any more.
Channel::Came Channel::came(iovec* room, int rooms, bool waits, std::size_t& got) {
    if (!no_more_received_.empty()) return Came::ended;
    const Socket::Use use(socket_);
    if (!use) return Came::ended;
    ssize_t result;
    do {
        msghdr message{};
        message.msg_iov = room;
        message.msg_iovlen = static_cast<decltype(message.msg_iovlen)>(rooms);
        result = ::recvmsg(socket_.descriptor(), &message, waits ? 0 : MSG_DONTWAIT);
    } while (result < 0 && errno == EINTR);
    if (result < 0 && !waits && (errno == EAGAIN || errno == EWOULDBLOCK)) return Came::none_yet;
    receives_.fetch_add(1, std::memory_order_relaxed);
    if (result <= 0) {
        no_more_received_ = result == 0 ? "the other side closed it" : std::strerror(errno);
        return Came::ended;
    }
    got = static_cast<std::size_t>(result);
    received_bytes_.fetch_add(got, std::memory_order_relaxed);
    return Came::some;
}

void Channel::limit_sending(double seconds) noexcept {
    timeval limit{};
    limit.tv_sec = static_cast<decltype(limit.tv_sec)>(seconds);
    limit.tv_usec = static_cast<decltype(limit.tv_usec)>((seconds - static_cast<double>(limit.tv_sec)) * 1e6);
    const Socket::Use use(socket_);
    if (use) static_cast<void>(::setsockopt(socket_.descriptor(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit));
}

void Channel::end_forged(const char* what) {
    forged_.store(what, std::memory_order_release);  // release [forged]
    close();
    throw_ended("");
}

void Channel::throw_ended(const std::string& why) const {
    if (const char* what = forged_.load(std::memory_order_acquire))  // acquire [forged]
        throw ChannelEnded(std::string(what) + " came over the connection to " + peer_ +
                               ": somebody changed it on its way. The connection is closed",
                           true);
    throw ChannelEnded("the connection to " + peer_ + " has ended: " + (closed() ? "it was closed here" : why), false);
}

}  // namespace ringcast::link
