#include "select.hpp"

#include <array>

namespace model {

// As Selection's sources: by the seat's cursor, which any thread of the process may have moved.
bool Source::something() const {
    if (!is_seat) return world->arrived.load(std::memory_order_relaxed);
    const std::uint64_t next = world->ring.seats[0].cursor.load(std::memory_order_relaxed);
    const auto index = static_cast<std::uint32_t>(next % world->ring.depth);
    return world->ring.slot(index).sequence.load(std::memory_order_acquire) == next + 1;
}

namespace {

// As Selection::Bed::park.
template <std::size_t N>
void sleep_on(std::array<Source, N>& sources) {
    if (ringcast::arm<Policy>(sources)) return;
    std::array<Policy::futex_word*, N> words;
    for (std::size_t i = 0; i < N; ++i) words[i] = &sources[i].parked().word;
    const auto [result, word] = Policy::futex_wait_any(words.data(), N, ringcast::kSelects, INT64_MAX);
    // Also if a word has been cleared meanwhile: whoever did that wakes nobody any more.
    if (result == ringcast::platform::FutexResult::timed_out)
        for (const Source& source : sources)
            if (source.something())
                Explorer::the().fail("lost wake-up: an end can be read, and nobody will wake who waits for it");
    if (word >= N || !ringcast::has_fired(sources[word])) ringcast::find_fired(sources);
}

void take(World& world) {
    ringcast::RingReader<Policy> ring(world.ring, 0, world.read[0]);
    std::uint64_t bytes = 0;
    Policy::copy(&bytes, Ring::inline_area(ring.slot()), sizeof bytes);
    Explorer::the().expect(bytes == content(world.read[0]), "a message that is torn, or not the next one");
    ring.consume();
    ++world.read[0];
    ring.settle();
}

}  // namespace

void select_and_read(World& world, std::uint64_t messages, std::uint32_t rouses) {
    std::array<Source, 2> sources{Source{&world, true}, Source{&world, false}};
    auto& [seat, other] = sources;
    while (world.read[0] < messages || rouses > 0) {
        bool any = false;
        if (!seat.armed && seat.something()) {
            take(world);
            any = true;
        }
        if (!other.armed && other.something() && world.arrived.exchange(false, std::memory_order_relaxed)) {
            --rouses;
            any = true;
        }
        if (!any) sleep_on(sources);
    }
}

void select_beside(World& world, std::uint64_t messages) {
    std::array<Source, 1> sources{Source{&world, true}};
    while ((sources[0].armed || !sources[0].something()) &&
           world.ring.seats[0].cursor.load(std::memory_order_relaxed) < messages)
        sleep_on(sources);
}

void read_beside(World& world, std::uint64_t messages) {
    const Source seat{&world, true};
    while (world.read[0] < messages) {
        if (seat.something())
            take(world);
        else
            sleep(world.ring.seats[0].parked, 1, [&] { return seat.something(); });
    }
}

}  // namespace model
