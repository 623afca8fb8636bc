// What the model says of a ring of flags in no order (freeze_ring.hpp): one chunk, one reader, two messages.
//
// Prints the outcomes, and the trace of a race. Exit code 0 if it goes wrong as docs/freeze.md says.
#include <cstdio>
#include <cstring>
#include <set>
#include <string>

#include "freeze_ring.hpp"
#include "policy.hpp"

namespace {

using model::Atomic;
using model::Explorer;

// The message is one relaxed word here, so that an outcome can be told where bytes would only be a race.
struct WordPolicy : model::Policy {
    static inline Atomic<std::uint64_t>* message = nullptr;
    static void copy(void* to, const void* from, std::size_t bytes) {
        std::uint64_t value = 0;
        if (model::SharedBytes::holds(from)) {
            value = message->load(std::memory_order_relaxed);
            std::memcpy(to, &value, bytes);
        } else {
            std::memcpy(&value, from, bytes);
            message->store(value, std::memory_order_relaxed);
        }
    }
};

template <class P>
struct World {
    ringcast::model::FreezeChunk<P, 1, sizeof(std::uint64_t)> chunk;
    std::string outcome;

    World() {
        Explorer::the().forget_locations();
        model::SharedBytes::begin = model::SharedBytes::strict = chunk.bytes;
        model::SharedBytes::end = chunk.bytes + sizeof chunk.bytes;
    }

    // Each end looks at most so often, so that every execution ends.
    void write() {
        for (std::uint64_t n = 1; n <= 2; ++n)
            if (chunk.writable()) chunk.write(reinterpret_cast<const std::byte*>(&n));
    }
    void read() {
        for (int look = 0; look < 2; ++look) {
            if (!chunk.readable(0)) continue;
            std::uint64_t value = 0;
            chunk.take(0, reinterpret_cast<std::byte*>(&value));
            outcome += std::to_string(value);
        }
    }
    template <class AtEnd>
    model::Result explore(AtEnd&& at_end) {
        model::Program program{.name = "flags", .threads = {}, .at_start = {}, .at_end = {}};
        program.threads.push_back({"writer", [this] { write(); }});
        program.threads.push_back({"reader", [this] { read(); }});
        program.at_start = [this] { outcome.clear(); };
        program.at_end = [&] { at_end(outcome); };
        return Explorer::the().explore(program, {});
    }
};

}  // namespace

int main() {
    std::set<std::string> outcomes;
    Atomic<std::uint64_t> message;
    World<WordPolicy> words;
    WordPolicy::message = &message;
    const model::Result all = words.explore([&](const std::string& read) { outcomes.insert(read); });
    std::printf(
        "a ring of flags in no order, %llu executions; the reader gets of messages 1 and 2 (0 is what was there "
        "before):",
        static_cast<unsigned long long>(all.executions));
    for (const std::string& outcome : outcomes) std::printf(" %s", outcome.empty() ? "nothing" : outcome.c_str());
    std::printf("\n");
    World<model::Policy> bytes;
    const model::Result race = bytes.explore([](const std::string&) {});
    std::printf("with its message in plain bytes: %s\n%s", race.violation.c_str(), race.trace.c_str());
    const bool too_early = outcomes.count("0") != 0;
    const bool twice = outcomes.count("11") != 0;
    const bool lost = outcomes.count("02") != 0;
    return too_early && twice && lost && race.violation.starts_with("race") ? 0 : 1;
}
