// A stream between two links over real sockets: what the tap finds arrives in order, while others acknowledge, speak and close.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.hpp"
#include "link/channel.hpp"
#include "link/outflow.hpp"
#include "sender.hpp"

using namespace ringcast;
using link::Channel;
using link::ChannelEnded;
using link::Cipher;
using link::Kind;
using link::kTagBytes;
using link::Piece;
using link::Pieces;

namespace {

constexpr std::int64_t kLongNs = 60'000'000'000;

// No cipher: a sum that knows its key, its place and its bytes, and a stream to match.
class Sum : public link::Aead {
public:
    void use(const link::Key& key) override { key_ = key; }
    void seal(const link::Nonce& nonce, Pieces clear, Pieces plain, std::byte* sealed) override {
        std::uint64_t sum = begin(nonce);
        for (const Piece piece : clear) add(sum, piece);
        for (const Piece piece : plain) {
            add(sum, piece);
            for (const std::byte byte : piece) *sealed++ = byte ^ key_[0];
        }
        write(sum, sealed);
    }
    bool open(const link::Nonce& nonce, Piece clear, Piece sealed, std::byte* plain) override {
        std::uint64_t sum = begin(nonce);
        add(sum, clear);
        const std::size_t length = sealed.size() - kTagBytes;
        for (std::size_t i = 0; i < length; ++i) plain[i] = sealed[i] ^ key_[0];
        add(sum, {plain, length});
        std::byte wanted[kTagBytes];
        write(sum, wanted);
        return std::memcmp(wanted, sealed.data() + length, kTagBytes) == 0;
    }

private:
    std::uint64_t begin(const link::Nonce& nonce) const {
        std::uint64_t sum = 7;
        add(sum, key_);
        add(sum, nonce);
        return sum;
    }
    static void add(std::uint64_t& sum, Piece piece) {
        for (const std::byte byte : piece) sum = (sum ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3;
    }
    static void write(std::uint64_t sum, std::byte* tag) {
        std::memset(tag, 0, kTagBytes);
        std::memcpy(tag, &sum, sizeof sum);
    }
    link::Key key_{};
};

std::shared_ptr<Cipher> cipher(int key, std::uint64_t rekey_bytes = link::kRekeyBytes) {
    return std::make_shared<Cipher>(std::make_unique<Sum>(), link::Key{std::byte(key)}, rekey_bytes);
}

std::array<int, 2> connection() {
    const int listening = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    CHECK(::bind(listening, reinterpret_cast<sockaddr*>(&address), length) == 0);
    CHECK(::listen(listening, 1) == 0);
    CHECK(::getsockname(listening, reinterpret_cast<sockaddr*>(&address), &length) == 0);
    const int here = ::socket(AF_INET, SOCK_STREAM, 0);
    CHECK(::connect(here, reinterpret_cast<sockaddr*>(&address), length) == 0);
    const int there = ::accept(listening, nullptr, nullptr);
    CHECK(there >= 0);
    ::close(listening);
    return {here, there};
}

struct Pair {
    explicit Pair(bool encrypt, std::uint64_t rekey_bytes = link::kRekeyBytes)
        : Pair(connection(), encrypt, rekey_bytes) {}
    Pair(std::array<int, 2> sockets, bool encrypt, std::uint64_t rekey_bytes)
        : here(sockets[0], cipher(1, rekey_bytes), cipher(2), encrypt, "there"),
          there(sockets[1], cipher(2), cipher(1, rekey_bytes), encrypt, "here") {}
    Channel here, there;
};

std::shared_ptr<Segment> make(std::uint32_t depth) {
    const std::string name = "ringcast_lt" + std::to_string(platform::process_id());
    return Segment::create(
        {name, "link", "test", plan_geometry(1, 0, 300'000, depth, 8 << 20, 0, platform::page_bytes()), {}});
}

std::uint64_t size_of(std::uint64_t number) {
    constexpr std::uint64_t kSizes[] = {8, 64, 3'000, 40'000, 300, 250'000, 2'049, 17};
    return kSizes[number % std::size(kSizes)];
}

void send(Sender& sender, std::uint64_t number) {
    Sender::Room room;
    while (!sender.try_reserve(size_of(number), room)) {
        sender.begin_wait();
        sender.waiter().finish(sender.await_room(kForever));
    }
    std::memset(room.bytes, static_cast<int>(number % 251), room.length);
    std::memcpy(room.bytes, &number, sizeof number);
    sender.commit(room, Encoding::raw, false);
}

void check_message(Piece bytes, std::uint64_t number) {
    CHECK(bytes.size() == size_of(number));
    CHECK(std::memcmp(bytes.data(), &number, sizeof number) == 0);
    CHECK(std::all_of(bytes.begin() + sizeof number, bytes.end(),
                      [&](std::byte byte) { return byte == std::byte(number % 251); }));
}

// Takes all that comes, and says what has come, until the other side ends.
void receive_all(Channel& data, Channel& control, std::uint64_t& number) {
    while (true) {
        const Channel::Record record = data.next();
        if (record.is(Kind::batch)) {
            Piece batch = data.read();
            while (!batch.empty()) {
                BatchHead head;
                CHECK(batch.size() >= sizeof head);
                std::memcpy(&head, batch.data(), sizeof head);
                check_message(batch.subspan(sizeof head, head.length), number++);
                batch = batch.subspan(sizeof head + head.length);
            }
        } else if (record.is(Kind::begin)) {
            std::uint64_t length;
            std::memcpy(&length, data.read().data(), sizeof length);
            std::vector<std::byte> bytes(length);
            for (std::size_t at = 0; at < length;) {
                const Channel::Record body = data.next();
                CHECK(body.is(Kind::body) && body.length <= length - at);
                data.read_into(bytes.data() + at);
                at += body.length;
            }
            check_message(bytes, number++);
        } else {
            CHECK(record.is(Kind::end));
            return;
        }
        control.send(Kind::ack, std::as_bytes(std::span(&number, 1)));
    }
}

}  // namespace

TEST(what_a_tap_finds_arrives_whole_and_in_order_while_it_is_acknowledged) {
    const std::uint64_t messages = 300ull * check::kScale;
    for (const bool encrypt : {false, true}) {
        const auto segment = make(8);
        Sender sender(segment, Strategy::park(), {});
        CHECK(sender.readers().promise());
        const auto again = Segment::attach(segment->name(), Access::read, "test");
        Tap tap(again, Strategy::park(), claim_tap(*again));
        Pair data(encrypt, 1 << 20), control(encrypt);
        std::thread flowing([&] {
            link::Outflow flow(tap);
            while (tap.ending(false) == Ending::none || tap.readable())
                static_cast<void>(flow.run(data.here, 1'000'000, kLongNs));
            data.here.send(Kind::end, {});
        });
        std::thread hearing([&] {
            // What is no acknowledgement is left to be read.
            CHECK(link::hear_acknowledgements(control.here, tap, platform::monotonic_ns() + kLongNs));
            CHECK(control.here.next().is(Kind::word));
        });
        std::uint64_t arrived = 0;
        std::thread receiving([&] {
            receive_all(data.there, control.there, arrived);
            control.there.send(Kind::word, {});
        });
        for (std::uint64_t number = 0; number < messages; ++number) send(sender, number);
        sender.shut_down();
        flowing.join();
        receiving.join();
        hearing.join();
        CHECK(arrived == messages);
        CHECK(tap.acknowledged() == messages);
        CHECK(data.here.sent_bytes() == data.there.received_bytes());
        CHECK((data.there.placed_bytes() != 0) == !encrypt);
    }
}

TEST(an_acknowledgement_that_cannot_be_is_an_error) {
    const auto segment = make(8);
    Sender sender(segment, Strategy::park(), {});
    CHECK(sender.readers().promise());
    const auto again = Segment::attach(segment->name(), Access::read, "test");
    Tap tap(again, Strategy::park(), claim_tap(*again));
    Pair control(true);
    const std::uint64_t position = 1;
    control.there.send(Kind::ack, std::as_bytes(std::span(&position, 1)));
    CHECK_THROWS(link::hear_acknowledgements(control.here, tap, platform::monotonic_ns() + kLongNs), link);
}

TEST(who_closes_ends_all_calls_of_other_threads_and_the_descriptor_is_closed_by_the_last) {
    for (int round = 0; round < 20 * check::kScale; ++round) {
        Pair pair(round % 2 == 0);
        const std::vector<std::byte> much(link::kMaxRecord);
        std::atomic<int> ended{0};
        const auto until_it_ends = [&](auto&& use) {
            return std::thread([&ended, use] {
                try {
                    while (true) use();
                } catch (const ChannelEnded& error) {
                    CHECK(!error.forged());
                    ++ended;
                }
            });
        };
        std::thread threads[] = {
            until_it_ends([&] { pair.here.send(Kind::body, much); }),
            until_it_ends([&] { pair.here.send(Kind::word, {}); }),
            until_it_ends([&] {
                static_cast<void>(pair.here.await_record(platform::monotonic_ns() + kLongNs));
                static_cast<void>(pair.here.next());
            }),
            std::thread([&] { pair.here.close(); }),
            std::thread([&] { pair.here.close(); }),
        };
        for (std::thread& thread : threads) thread.join();
        CHECK(ended == 3);
        CHECK(pair.here.closed() && pair.here.descriptor() == -1);
    }
}

TEST(a_record_out_of_its_place_is_never_believed) {
    for (const bool encrypt : {false, true}) {
        const auto sockets = connection();
        Channel receiver(sockets[1], cipher(2), cipher(1), encrypt, "here");
        Channel first(::dup(sockets[0]), cipher(1), cipher(2), encrypt, "there");
        Channel second(sockets[0], cipher(1), cipher(2), encrypt, "there");  // begins to count anew
        const std::byte bytes[40]{};
        first.send(Kind::batch, bytes);
        second.send(Kind::batch, bytes);
        CHECK(receiver.next().is(Kind::batch));
        CHECK(receiver.read().size() == sizeof bytes);
        bool forged = false;
        try {
            static_cast<void>(receiver.next());
            static_cast<void>(receiver.read());
        } catch (const ChannelEnded& error) {
            forged = error.forged();
        }
        CHECK(forged && receiver.closed());
    }
}

TEST(what_comes_in_parts_of_any_size_is_the_same) {
    for (const bool encrypt : {false, true}) {
        const std::size_t sizes[] = {0, 1, 40, 0, 300};
        std::vector<std::byte> wire;
        {
            const auto sockets = connection();
            Channel sender(sockets[0], cipher(1), cipher(2), encrypt, "there");
            std::size_t length = 0;
            for (const std::size_t size : sizes) {
                sender.send(Kind::word, std::vector<std::byte>(size, std::byte(size)));
                length += sizeof(link::RecordHead) + size + kTagBytes;
            }
            wire.resize(length);
            CHECK(::recv(sockets[1], wire.data(), length, MSG_WAITALL) == static_cast<ssize_t>(length));
            ::close(sockets[1]);
        }
        for (std::size_t first = 0; first <= wire.size(); ++first) {
            const auto sockets = connection();
            Channel receiver(sockets[1], cipher(2), cipher(1), encrypt, "here");
            std::size_t sent = 0;
            const auto send_until = [&](std::size_t until) {
                CHECK(::send(sockets[0], wire.data() + sent, until - sent, 0) == static_cast<ssize_t>(until - sent));
                sent = until;
            };
            send_until(first);
            std::size_t end = 0;
            for (const std::size_t size : sizes) {
                const std::size_t begin = end;
                end += sizeof(link::RecordHead) + size + kTagBytes;
                CHECK(receiver.await_record(platform::monotonic_ns() + (sent >= end ? kLongNs : 0)) == (sent >= end));
                if (sent < begin + sizeof(link::RecordHead)) send_until(begin + sizeof(link::RecordHead));
                CHECK(receiver.next().length == size);
                CHECK(receiver.await_record(platform::monotonic_ns() + (sent >= end ? kLongNs : 0)) == (sent >= end));
                if (sent < end) send_until(end);
                std::vector<std::byte> found(size);
                if (first % 2 == 0) {
                    receiver.read_into(found.data());
                } else {
                    const Piece read = receiver.read();
                    found.assign(read.begin(), read.end());
                }
                CHECK(found == std::vector<std::byte>(size, std::byte(size)));
            }
            ::close(sockets[0]);
        }
    }
}

TEST(a_record_of_more_pieces_than_a_call_takes_is_sent_whole) {
    for (const bool encrypt : {false, true}) {
        Pair pair(encrypt);
        const std::vector<std::byte> bytes(link::kMaxRecord, std::byte{5});
        std::vector<Piece> pieces;
        for (std::size_t at = 0, i = 0; at < bytes.size(); ++i) {
            const std::size_t length = std::min<std::size_t>(i % 90, bytes.size() - at);
            pieces.emplace_back(bytes.data() + at, length);
            at += length;
        }
        CHECK(pieces.size() > 5000);
        std::thread sending([&] { pair.here.send(static_cast<std::uint8_t>(Kind::batch), pieces); });
        CHECK(pair.there.next().length == bytes.size());
        const Piece read = pair.there.read();
        CHECK(std::equal(read.begin(), read.end(), bytes.begin(), bytes.end()));
        sending.join();
    }
}
