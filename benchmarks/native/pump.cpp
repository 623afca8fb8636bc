// A pump with the copies that a link makes, and none of its duties: writer, ring, sender, TCP, receiver, ring, reader.
//
// The writer copies from three private sources in turn into a ring in shared memory; the sender sends from there; the
// receiver receives large messages straight into the second ring, and small ones, of which many share a send and a
// receive, through a buffer; the reader looks at a byte of every page. A place of the first ring is free again once the
// second ring has its message: the receiver says so on the way back, and a thread of the sender's process hears it.
// Writer and reader are pinned, sender and receiver run where the scheduler likes. Who has nothing to do looks again for
// a while, gives way for a while, and then sleeps.
//
// The time runs from the first message after a warm-up to the last, as the reader gets them.
#include "pump.hpp"

#include <memory>
#include <thread>

#include "common.hpp"
#include "copy.hpp"
#include "loopback.hpp"
#include "wake.hpp"

namespace floor_program {

namespace {

constexpr double kWarmUpShare = 0.3;
constexpr std::size_t kSources = 3;
constexpr std::size_t kPage = 4096;
// Messages below this share sends and receives, of so many bytes.
constexpr std::size_t kSmall = 16 << 10;
constexpr std::size_t kBatch = 64 << 10;

// The first bytes of every message.
enum class Mark : std::uint64_t { warm_up, timed, last };

// A count that one process raises and another one waits for.
class Count {
public:
    std::uint64_t get() const { return value_.load(std::memory_order_acquire); }

    void set(std::uint64_t value) {
        value_.store(value, std::memory_order_release);  // pairs with the acquire load of `get`
        // Either this sees that the other side is asleep, or that one, after its fence, sees the value.
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (asleep_.load(std::memory_order_relaxed) != 0 && asleep_.exchange(0, std::memory_order_relaxed) != 0) {
            futex(asleep_, FUTEX_WAKE, 1);
        }
    }

    // The value, once it is more than `seen`.
    std::uint64_t above(std::uint64_t seen) {
        constexpr int kLooks = 200;
        constexpr int kYields = 20;
        for (int i = 0; i < kLooks + kYields; ++i) {
            if (const std::uint64_t value = get(); value > seen) {
                return value;
            }
            if (i < kLooks) {
                pause_cpu();
            } else {
                sched_yield();
            }
        }
        for (;;) {
            asleep_.store(1, std::memory_order_relaxed);
            std::atomic_thread_fence(std::memory_order_seq_cst);
            if (const std::uint64_t value = get(); value > seen) {
                asleep_.store(0, std::memory_order_relaxed);
                return value;
            }
            futex(asleep_, FUTEX_WAIT, 1);
        }
    }

private:
    alignas(kLinePair) std::atomic<std::uint64_t> value_{0};
    alignas(kLinePair) std::atomic<std::uint32_t> asleep_{0};
};

// `depth` places, each of a message: one side writes, the other reads and gives the places back.
class Ring {
public:
    Ring(std::size_t bytes, std::size_t depth) : bytes_(bytes), depth_(depth), places_(bytes * depth) {}

    char* place(std::uint64_t number) const { return places_.start() + number % depth_ * bytes_; }
    // Waits for room for message `number`. One side's own: it remembers what it saw last.
    void await_room(std::uint64_t number) {
        if (number >= read_seen_ + depth_) {
            read_seen_ = counts_->read.above(number - depth_);
        }
    }
    // How many there are: at least one more than `number`.
    std::uint64_t await_message(std::uint64_t number) {
        if (number >= written_seen_) {
            written_seen_ = counts_->written.above(number);
        }
        return written_seen_;
    }
    void written(std::uint64_t count) { counts_->written.set(count); }
    void read(std::uint64_t count) { counts_->read.set(count); }

private:
    struct Counts {
        Count written, read;
    };
    std::size_t bytes_, depth_;
    SharedPages places_;
    Shared<Counts> counts_;
    std::uint64_t read_seen_ = 0, written_seen_ = 0;
};

struct Found {
    std::atomic<std::uint64_t> messages{0}, ns{0};
};

Mark mark_of(const char* message) {
    Mark mark;
    std::memcpy(&mark, message, sizeof mark);
    return mark;
}

void write_all(Ring& ring, std::size_t bytes, std::size_t depth, double seconds) {
    std::vector<std::unique_ptr<PrivatePages>> sources;
    for (std::size_t i = 0; i < kSources; ++i) {
        sources.push_back(std::make_unique<PrivatePages>(bytes));
    }
    const std::uint64_t begin = now_ns();
    const auto timed_from = begin + static_cast<std::uint64_t>(seconds * kWarmUpShare * 1e9);
    std::uint64_t last_from = UINT64_MAX;
    Mark mark = Mark::warm_up;
    for (std::uint64_t i = 0; mark != Mark::last; ++i) {
        ring.await_room(i);
        // The clock for every message would be a good part of a small one.
        const std::uint64_t now = bytes >= kSmall || i % 64 == 0 ? now_ns() : 0;
        if (now >= last_from) {
            mark = Mark::last;
        } else if (mark == Mark::warm_up && now >= timed_from && i >= 2 * depth) {  // every place has been touched
            mark = Mark::timed;
            last_from = now + static_cast<std::uint64_t>(seconds * 1e9);
        }
        char* to = ring.place(i);
        std::memcpy(to, sources[i % kSources]->start(), bytes);
        std::memcpy(to, &mark, sizeof mark);
        ring.written(i + 1);
    }
}

void send_all(Ring& ring, const Stream& stream, std::size_t bytes) {
    std::thread hearing([&] {
        for (std::uint64_t published; stream.receive_all(&published, sizeof published);) {
            ring.read(published);
        }
    });
    std::vector<char> batch;
    batch.reserve(kBatch + kSmall);
    for (std::uint64_t i = 0, there = 0; true;) {
        if (i == there) {
            there = ring.await_message(i);
        }
        const std::uint64_t length = bytes;
        // Looked at before the message is sent: from then on its place may be another one's.
        Mark mark = mark_of(ring.place(i));
        if (bytes >= kSmall) {
            stream.send_all(&length, sizeof length, true);
            stream.send_all(ring.place(i++), bytes);
        } else {
            batch.clear();
            for (; i < there && batch.size() < kBatch; ++i) {
                const auto* head = reinterpret_cast<const char*>(&length);
                batch.insert(batch.end(), head, head + sizeof length);
                batch.insert(batch.end(), ring.place(i), ring.place(i) + bytes);
                mark = mark_of(ring.place(i));
            }
            stream.send_all(batch.data(), batch.size());
        }
        if (mark == Mark::last) {
            break;
        }
    }
    stream.end();
    hearing.join();
}

void receive_large(Ring& ring, const Stream& stream, std::size_t bytes) {
    std::uint64_t length = 0;
    for (std::uint64_t i = 0; stream.receive_all(&length, sizeof length); ++i) {
        ring.await_room(i);
        if (length != bytes || !stream.receive_all(ring.place(i), bytes)) {
            throw std::runtime_error("a message was cut off");
        }
        const std::uint64_t published = i + 1;
        ring.written(published);
        stream.send_all(&published, sizeof published);
    }
}

void receive_small(Ring& ring, const Stream& stream, std::size_t bytes) {
    const std::size_t record = sizeof(std::uint64_t) + bytes;
    std::vector<char> buffer(8 * kBatch);
    std::size_t have = 0;
    std::uint64_t published = 0;
    while (const std::size_t received = stream.receive_some(buffer.data() + have, buffer.size() - have)) {
        have += received;
        std::size_t at = 0;
        for (; have - at >= record; at += record) {
            ring.await_room(published);
            std::memcpy(ring.place(published), buffer.data() + at + sizeof(std::uint64_t), bytes);
            ring.written(++published);
        }
        std::memmove(buffer.data(), buffer.data() + at, have - at);
        have -= at;
        if (at > 0) {
            stream.send_all(&published, sizeof published);
        }
    }
}

void read_all(Ring& ring, std::size_t bytes, Found& found) {
    std::uint64_t first = 0, first_ns = 0;
    for (std::uint64_t i = 0; true; ++i) {
        ring.await_message(i);
        const volatile char* message = ring.place(i);
        for (std::size_t at = 0; at < bytes; at += kPage) {
            (void)message[at];
        }
        (void)message[bytes - 1];
        const Mark mark = mark_of(ring.place(i));
        ring.read(i + 1);
        if (mark != Mark::warm_up && first_ns == 0) {
            first = i;
            first_ns = now_ns();
        }
        if (mark == Mark::last) {
            found.messages.store(i - first, std::memory_order_relaxed);
            found.ns.store(now_ns() - first_ns, std::memory_order_relaxed);
            return;
        }
    }
}

}  // namespace

double pump(int writer_cpu, int reader_cpu, std::size_t bytes, std::size_t depth, double seconds) {
    if (bytes < sizeof(Mark) || depth == 0) {
        throw std::runtime_error("a message must hold its mark, and a ring a message");
    }
    Ring near_writer(bytes, depth);
    Ring near_reader(bytes, depth);
    Shared<Found> found;
    Listening listening;

    Child reader([&] {
        pin_to(reader_cpu);
        read_all(near_reader, bytes, *found);
    });
    Child receiver([&] {
        const Stream stream(listening.accepted());
        bytes >= kSmall ? receive_large(near_reader, stream, bytes) : receive_small(near_reader, stream, bytes);
    });
    Child sender([&] {
        const Stream stream(listening.connected());
        send_all(near_writer, stream, bytes);
    });
    Child writer([&] {
        pin_to(writer_cpu);
        write_all(near_writer, bytes, depth, seconds);
    });
    writer.join();
    sender.join();
    receiver.join();
    reader.join();  // and with it what it found is visible
    return static_cast<double>(found->messages.load(std::memory_order_relaxed)) * 1e9 /
           static_cast<double>(std::max<std::uint64_t>(found->ns.load(std::memory_order_relaxed), 1));
}

double tcp_rate(int sender_cpu, int receiver_cpu, std::size_t bytes, double seconds) {
    Listening listening;
    Child sender([&] {
        pin_to(sender_cpu);
        const PrivatePages from(bytes);
        const Stream stream(listening.connected());
        const std::uint64_t end = now_ns() + static_cast<std::uint64_t>((1 + kWarmUpShare) * seconds * 1e9);
        while (now_ns() < end) {
            stream.send_all(from.start(), bytes);
        }
    });

    pin_to(receiver_cpu);
    const PrivatePages to(bytes);
    const Stream stream(listening.accepted());
    const std::uint64_t timed_from = now_ns() + static_cast<std::uint64_t>(kWarmUpShare * seconds * 1e9);
    std::uint64_t begin = 0, end = 0, received = 0;
    while (stream.receive_all(to.start(), bytes)) {
        end = now_ns();
        if (begin != 0) {
            received += bytes;
        } else if (end >= timed_from) {
            begin = end;
        }
    }
    sender.join();
    return static_cast<double>(received) / static_cast<double>(std::max<std::uint64_t>(end - begin, 1));
}

}  // namespace floor_program
