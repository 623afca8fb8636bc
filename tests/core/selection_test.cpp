// Many ends waited for at once, in one process and by several threads: nothing that comes is slept through.
#include "selection.hpp"

#include <poll.h>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "sender.hpp"

using namespace ringcast;

namespace {

struct Queue {
    std::shared_ptr<Segment> segment;
    std::shared_ptr<Segment> mapped;
    std::unique_ptr<Sender> sender;
    std::unique_ptr<Receiver> receiver;
    std::shared_ptr<std::atomic<std::uint64_t>> left_over = std::make_shared<std::atomic<std::uint64_t>>(0);
    std::uint64_t taken = 0;

    explicit Queue(std::uint32_t number) {
        const std::string name = "ringcast_st" + std::to_string(platform::process_id()) + "." + std::to_string(number);
        segment = Segment::create(
            {name, "select", "test", plan_geometry(1, 1, 64, 4, 1 << 16, 0, platform::page_bytes()), {0}});
        sender = std::make_unique<Sender>(segment, Strategy::park(), ReaderPolicy{});
        mapped = Segment::attach(name, Access::read, "test");
        receiver = std::make_unique<Receiver>(mapped, Strategy::park(), claim_seat(*mapped, 0));
    }
    void send(std::uint64_t number) {
        Sender::Room room;
        while (!sender->try_reserve(8, room)) std::this_thread::yield();
        std::memcpy(room.bytes, &number, 8);
        sender->commit(room, Encoding::raw, false);
    }
    void take() {
        CHECK(receiver->readable());
        const Receiver::Message message = receiver->current();
        CHECK(std::memcmp(message.bytes, &taken, 8) == 0);
        ++taken;
        receiver->consume(message);
        receiver->settle();
    }
};

// Writers that flood their queues, one that selects, one that takes an end away and brings it back, and perhaps a
// notifier. Each selection reads one message of each end that it is given.
void run(std::uint32_t count, bool notifies) {
    const std::uint64_t messages = 400ull * check::kScale;
    std::vector<std::unique_ptr<Queue>> queues;
    for (std::uint32_t i = 0; i < count; ++i) queues.push_back(std::make_unique<Queue>(i));
    Selection selection(Strategy::adaptive_default());
    const auto add = [&](Queue& queue) {
        return selection.add(selection.access(), &queue, queue.receiver->hold(), queue.left_over);
    };
    for (const auto& queue : queues) CHECK(add(*queue));
    CHECK(!add(*queues[0]));
    if (notifies) selection.descriptor(selection.access());

    std::atomic<bool> done{false};
    std::vector<std::thread> threads;
    for (std::uint32_t from = 0; from < 2; ++from)
        threads.emplace_back([&, from] {
            for (std::uint64_t number = 0; number < messages; ++number)
                for (std::uint32_t i = from; i < count; i += 2) queues[i]->send(number);
        });
    threads.emplace_back([&] {
        // Of an end that is not selected: nobody reads it meanwhile.
        const std::unique_ptr<Queue> other = std::make_unique<Queue>(count);
        while (!done.load()) {
            CHECK(add(*other));
            std::this_thread::yield();
            selection.remove(selection.access(), other.get());
        }
    });
    std::uint64_t left = messages * count;
    while (left > 0) {
        if (notifies) {
            pollfd waited{selection.descriptor(selection.access()), POLLIN, 0};
            CHECK(poll(&waited, 1, 60'000) == 1);
        } else {
            selection.begin();
            bool ready = selection.briefly();
            for (int slices = 0; !ready; ++slices) {
                CHECK(slices < 1'000'000);
                ready = selection.slice(platform::monotonic_ns() + 60'000'000'000);
            }
            selection.finish(true);
        }
        for (void* given : selection.collect()) {
            static_cast<Queue*>(given)->take();
            --left;
        }
    }
    done.store(true);
    for (std::thread& thread : threads) thread.join();
    CHECK(selection.collect().empty());
    CHECK(selection.counts().rescued_wakes <= check::kForgivenRescues);
}

// An end that is shut down while it is waited for is given, and its seat nobody else's before it has been removed.
void shut_down_while_waited_for() {
    Queue queue(0);
    Selection selection(Strategy::park());
    CHECK(selection.add(selection.access(), &queue, queue.receiver->hold(), queue.left_over));
    std::thread ends([&] {
        while (selection.counts().parks == 0) std::this_thread::yield();
        queue.receiver->shut_down();
    });
    selection.begin();
    while (!selection.slice(platform::monotonic_ns() + 60'000'000'000)) {
    }
    selection.finish(true);
    ends.join();
    CHECK(selection.collect().size() == 1);
    const auto again = Segment::attach(queue.segment->name(), Access::read, "test");
    try {
        CHECK(claim_seat(*again, 0).seat != 0);
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::rank_taken);
    }
    queue.receiver.reset();  // before the selection lets go of it
    CHECK(selection.collect().size() == 1);
    selection.remove(selection.access(), &queue);
    CHECK(selection.collect().empty());
}

}  // namespace

TEST(one_message_for_each_time_that_an_end_is_given) { run(3, false); }
TEST(more_ends_than_a_system_call_takes) { run(140, false); }
TEST(by_a_descriptor) {
    run(3, true);
    run(140, true);
}
TEST(an_end_that_is_shut_down_is_given) { shut_down_while_waited_for(); }
