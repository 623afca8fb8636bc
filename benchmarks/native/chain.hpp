// The floor under a link's latency: writer, sender, receiver and reader, four processes, woken one by the other.
//
// One way is a futex wake, 64 bytes through TCP over loopback, and a second futex wake; then the same back. Nobody
// spins. Writer and reader are pinned, the two between them run where the scheduler likes.
#pragma once

#include "loopback.hpp"
#include "wake.hpp"

namespace floor_program {

// Half of a round trip's p50, in ns.
inline double chain(int writer_cpu, int reader_cpu, std::uint64_t trips) {
    constexpr std::uint64_t kWarmUp = 200;
    // Counts what has been handed over; its reader sleeps on it.
    struct Word {
        alignas(kLinePair) std::atomic<std::uint32_t> count{0};

        void hand_over(std::uint32_t number) {
            count.store(number, std::memory_order_release);  // pairs with the acquire load in `await`
            futex(count, FUTEX_WAKE, 1);
        }
        void await(std::uint32_t number) {
            for (std::uint32_t seen; (seen = count.load(std::memory_order_acquire)) != number;) {
                futex(count, FUTEX_WAIT, seen);
            }
        }
    };
    struct Words {
        Word to_sender, to_reader, to_receiver, to_writer;
    };
    struct Message {
        char bytes[64];
    };
    Shared<Words> words;
    Listening listening;
    const auto total = static_cast<std::uint32_t>(trips + kWarmUp);

    Child sender([&] {
        const Stream stream(listening.connected());
        Message message{};
        for (std::uint32_t i = 1; i <= total; ++i) {
            words->to_sender.await(i);
            stream.send_all(&message, sizeof message);
            if (!stream.receive_all(&message, sizeof message)) {
                throw std::runtime_error("the connection ended early");
            }
            words->to_writer.hand_over(i);
        }
    });
    Child receiver([&] {
        const Stream stream(listening.accepted());
        Message message{};
        for (std::uint32_t i = 1; i <= total && stream.receive_all(&message, sizeof message); ++i) {
            words->to_reader.hand_over(i);
            words->to_receiver.await(i);
            stream.send_all(&message, sizeof message);
        }
    });
    Child reader([&] {
        pin_to(reader_cpu);
        for (std::uint32_t i = 1; i <= total; ++i) {
            words->to_reader.await(i);
            words->to_receiver.hand_over(i);
        }
    });

    pin_to(writer_cpu);
    std::vector<double> one_way;
    for (std::uint32_t i = 1; i <= total; ++i) {
        const std::uint64_t begin = now_ns();
        words->to_sender.hand_over(i);
        words->to_writer.await(i);
        if (i > kWarmUp) {
            one_way.push_back(static_cast<double>(now_ns() - begin) / 2);
        }
    }
    sender.join();
    receiver.join();
    reader.join();
    return percentile(one_way, 0.5);
}

}  // namespace floor_program
