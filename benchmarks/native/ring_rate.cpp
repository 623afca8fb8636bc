// The ring's own rate: the core's Sender and Receiver, as the Python binding uses them, with nothing above them.
//
// Real processes, a real segment, the default waiting strategy, one publish and one settle a message. The time runs
// from the first message that any reader has copied to the last that the slowest has.
#include "ring_rate.hpp"

#include "common.hpp"
#include "receiver.hpp"
#include "sender.hpp"

namespace floor_program {

namespace {

constexpr std::uint32_t kMostReaders = 64;
constexpr const char* kRelease = "floor";

struct Board {
    std::atomic<std::uint32_t> made{0};  // 1: the segment can be attached
    struct alignas(kLinePair) Times {
        std::atomic<std::uint64_t> first{0};
        std::atomic<std::uint64_t> last{0};
    } readers[kMostReaders];
};

void give_way_until(const std::atomic<std::uint32_t>& flag) {
    while (flag.load(std::memory_order_acquire) == 0) {
        sched_yield();
    }
}

void read_all(const std::string& name, std::uint32_t rank, std::uint64_t messages, std::size_t message_bytes,
              Board::Times& times) {
    auto segment = ringcast::Segment::attach(name, ringcast::Access::read, kRelease);
    const ringcast::Claim claim = ringcast::claim_seat(*segment, rank);
    ringcast::Receiver receiver(std::move(segment), ringcast::Strategy::adaptive_default(), claim);
    std::vector<std::byte> message(message_bytes);
    for (std::uint64_t i = 0; i < messages; ++i) {
        if (!receiver.readable()) {
            receiver.begin_wait();
            if (!receiver.await_message_briefly()) {
                while (!receiver.await_message(ringcast::kForever)) {
                    receiver.check_end(true);
                }
            }
            receiver.waiter().finish(true);
            receiver.check_end(false);
        }
        const auto current = receiver.current();
        std::memcpy(message.data(), current.bytes, current.length);
        receiver.consume(current);
        receiver.settle();
        std::uint64_t number = 0;
        std::memcpy(&number, message.data(), sizeof number);
        if (number != i) {
            throw std::runtime_error("a message was lost or out of order");
        }
        if (i == 0) {
            times.first.store(now_ns(), std::memory_order_relaxed);
        }
    }
    times.last.store(now_ns(), std::memory_order_relaxed);
}

}  // namespace

double ring_rate(int writer_cpu, const std::vector<int>& reader_cpus, std::uint64_t messages, std::size_t message_bytes,
                 std::size_t depth) {
    const auto n_readers = static_cast<std::uint32_t>(reader_cpus.size());
    if (n_readers == 0 || n_readers > kMostReaders) {
        throw std::runtime_error("the number of readers must be from 1 to " + std::to_string(kMostReaders));
    }
    if (message_bytes < sizeof(std::uint64_t)) {
        throw std::runtime_error("a message must hold its number");
    }
    const std::string name = "ringcast_floor_" + std::to_string(getpid());
    Shared<Board> board;
    std::vector<Child> readers;
    for (std::uint32_t rank = 0; rank < n_readers; ++rank) {
        readers.emplace_back([&, rank] {
            pin_to(reader_cpus[rank]);
            give_way_until(board->made);
            read_all(name, rank, messages, message_bytes, board->readers[rank]);
        });
    }

    pin_to(writer_cpu);
    ringcast::Segment::Request request;
    request.name = name;
    request.release = kRelease;
    request.geometry = ringcast::plan_geometry(n_readers, n_readers, message_bytes, static_cast<std::uint32_t>(depth),
                                               0, 0, ringcast::platform::page_bytes());
    for (std::uint32_t rank = 0; rank < n_readers; ++rank) {
        request.ranks.push_back(rank);
    }
    ringcast::Sender sender(ringcast::Segment::create(request), ringcast::Strategy::adaptive_default(), {});
    board->made.store(1, std::memory_order_release);
    while (!sender.await_ready(ringcast::kForever)) {
    }
    sender.confirm_ready();

    std::vector<std::byte> message(message_bytes);
    for (std::uint64_t i = 0; i < messages; ++i) {
        std::memcpy(message.data(), &i, sizeof i);
        ringcast::Sender::Room room;
        while (!sender.try_reserve(message_bytes, room)) {
            sender.begin_wait();
            if (!sender.await_room_briefly()) {
                while (!sender.await_room(ringcast::kForever)) {
                    sender.check_room(false);  // throws if a reader died
                }
            }
            sender.waiter().finish(true);
        }
        std::memcpy(room.bytes, message.data(), message_bytes);
        sender.commit(room, ringcast::Encoding::raw, false);
    }
    for (Child& reader : readers) {
        reader.join();
    }

    std::uint64_t first = UINT64_MAX;
    std::uint64_t last = 0;
    for (std::uint32_t rank = 0; rank < n_readers; ++rank) {
        first = std::min(first, board->readers[rank].first.load(std::memory_order_relaxed));
        last = std::max(last, board->readers[rank].last.load(std::memory_order_relaxed));
    }
    return static_cast<double>(messages - 1) / (static_cast<double>(last - first) / 1e9);
}

}  // namespace floor_program
