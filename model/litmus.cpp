// The model's own test: small programs, each with exactly the outcomes that C++20 allows.
//
// Each is explored twice, with and without the reduction, and both must find the same outcomes. Where C++20 allows one
// that the model leaves out (load buffering), the test says so.
#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include "policy.hpp"

namespace {

using model::Atomic;
using model::Explorer;
using model::Search;

constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto acquire = std::memory_order_acquire;
constexpr auto release = std::memory_order_release;
constexpr auto acq_rel = std::memory_order_acq_rel;

void fence_seq_cst() { model::Policy::fence_seq_cst(); }
void fence(std::memory_order order) { Explorer::the().fence(order, model::Site::current()); }

struct Shape {
    Atomic<std::uint64_t> x, y, z;
    std::uint64_t bytes = 0;
    std::uint64_t r[4] = {};
    std::uint64_t last(Atomic<std::uint64_t>& location) { return Explorer::the().latest(location.id()); }
};
using Body = void (*)(Shape&);
using Outcomes = std::set<std::string>;

int failures = 0;
std::uint64_t executions = 0, unreduced = 0;

std::string joined(const Outcomes& outcomes) {
    std::string text;
    for (const std::string& outcome : outcomes) text += (text.empty() ? "" : " ") + outcome;
    return text.empty() ? "none" : text;
}

// Outcomes are the first `registers` of r, then what `finals` names of "xyz"; a violation is an outcome, too.
void check(const char* name, int registers, const char* finals, const std::vector<Body>& bodies,
           const Outcomes& expected) {
    for (const bool reduced : {true, false}) {
        Explorer& explorer = Explorer::the();
        explorer.forget_locations();
        Shape shape;
        model::SharedBytes::begin = reinterpret_cast<const std::byte*>(&shape.bytes);
        model::SharedBytes::strict = model::SharedBytes::begin;
        model::SharedBytes::end = model::SharedBytes::begin + sizeof shape.bytes;
        Outcomes found;
        model::Program program{.name = name, .threads = {}, .at_start = {}, .at_end = {}};
        for (const Body body : bodies) program.threads.push_back({"thread", [body, &shape] { body(shape); }});
        program.at_start = [&] {
            for (auto& r : shape.r) r = 0;
        };
        program.at_end = [&] {
            std::string outcome;
            for (int i = 0; i < registers; ++i) outcome += std::to_string(shape.r[i]);
            for (const char* c = finals; *c != 0; ++c)
                outcome += std::to_string(shape.last(*c == 'x' ? shape.x : *c == 'y' ? shape.y : shape.z));
            found.insert(outcome);
        };
        Search search;
        if (!reduced) search = {.kind = Search::Kind::cheapest, .bound = 1'000'000};
        const auto result = explorer.explore(program, search);
        if (!result.violation.empty()) found = {result.violation.substr(0, result.violation.find(':'))};
        (reduced ? executions : unreduced) += result.executions;
        if (found == expected) continue;
        ++failures;
        std::printf("litmus %s, %s reduction:\n  expected %s\n  found    %s\n", name, reduced ? "with" : "without",
                    joined(expected).c_str(), joined(found).c_str());
    }
}

void store_buffering() {
    const auto left = [](Shape& s) { s.x.store(1, release), s.r[0] = s.y.load(acquire); };
    const auto right = [](Shape& s) { s.y.store(1, release), s.r[1] = s.x.load(acquire); };
    const auto left_fenced = [](Shape& s) { s.x.store(1, relaxed), fence_seq_cst(), s.r[0] = s.y.load(relaxed); };
    const auto right_fenced = [](Shape& s) { s.y.store(1, relaxed), fence_seq_cst(), s.r[1] = s.x.load(relaxed); };
    const auto right_half = [](Shape& s) { s.y.store(1, relaxed), fence(acq_rel), s.r[1] = s.x.load(relaxed); };
    check("store buffering", 2, "", {left, right}, {"00", "01", "10", "11"});
    check("store buffering, fences", 2, "", {left_fenced, right_fenced}, {"01", "10", "11"});
    check("store buffering, one fence", 2, "", {left_fenced, right}, {"00", "01", "10", "11"});
    check("store buffering, one fence acq_rel", 2, "", {left_fenced, right_half}, {"00", "01", "10", "11"});
}

void message_passing() {
    const auto send = [](Shape& s) { s.x.store(1, relaxed), s.y.store(1, release); };
    const auto send_relaxed = [](Shape& s) { s.x.store(1, relaxed), s.y.store(1, relaxed); };
    const auto send_fenced = [](Shape& s) { s.x.store(1, relaxed), fence(release), s.y.store(1, relaxed); };
    const auto receive = [](Shape& s) { s.r[0] = s.y.load(acquire), s.r[1] = s.x.load(relaxed); };
    const auto receive_relaxed = [](Shape& s) { s.r[0] = s.y.load(relaxed), s.r[1] = s.x.load(relaxed); };
    const auto receive_fenced = [](Shape& s) {
        s.r[0] = s.y.load(relaxed);
        fence(acquire);
        s.r[1] = s.x.load(relaxed);
    };
    const Outcomes all{"00", "01", "10", "11"}, passed{"00", "01", "11"};
    check("message passing", 2, "", {send, receive}, passed);
    check("message passing, relaxed store", 2, "", {send_relaxed, receive}, all);
    check("message passing, relaxed load", 2, "", {send, receive_relaxed}, all);
    check("message passing, fences", 2, "", {send_fenced, receive_fenced}, passed);
    check("message passing, release fence", 2, "", {send_fenced, receive}, passed);
    check("message passing, acquire fence", 2, "", {send, receive_fenced}, passed);
    check("message passing, acquire fence alone", 2, "", {send_relaxed, receive_fenced}, all);
    const auto relay = [](Shape& s) { s.z.store(s.y.load(acquire), release); };
    const auto relay_relaxed = [](Shape& s) { s.z.store(s.y.load(relaxed), release); };
    const auto receive_z = [](Shape& s) { s.r[0] = s.z.load(acquire), s.r[1] = s.x.load(relaxed); };
    check("message passing by a relay", 2, "", {send, relay, receive_z}, passed);
    check("message passing by a relaxed relay", 2, "", {send, relay_relaxed, receive_z}, all);
}

void coherence() {
    const auto write = [](Shape& s) { s.x.store(1, relaxed); };
    const auto read_twice = [](Shape& s) { s.r[0] = s.x.load(relaxed), s.r[1] = s.x.load(relaxed); };
    check("coherence, read-read", 2, "", {write, read_twice}, {"00", "01", "11"});
    check(
        "coherence, write-read", 1, "",
        {[](Shape& s) { s.x.store(1, relaxed), s.r[0] = s.x.load(relaxed); }, [](Shape& s) { s.x.store(2, relaxed); }},
        {"1", "2"});
    check(
        "coherence, read-write", 1, "x",
        {[](Shape& s) { s.r[0] = s.x.load(relaxed), s.x.store(1, relaxed); }, [](Shape& s) { s.x.store(2, relaxed); }},
        {"01", "02", "21"});
    check("coherence, write-write", 0, "x", {[](Shape& s) { s.x.store(1, relaxed), s.x.store(2, relaxed); }}, {"2"});
    check("two readers agree on the order", 4, "",
          {write, [](Shape& s) { s.x.store(2, relaxed); }, read_twice,
           [](Shape& s) { s.r[2] = s.x.load(relaxed), s.r[3] = s.x.load(relaxed); }},
          [] {
              Outcomes allowed;
              for (const std::string order : {"012", "021"})
                  for (std::size_t a = 0; a < 3; ++a)
                      for (std::size_t b = a; b < 3; ++b)
                          for (std::size_t c = 0; c < 3; ++c)
                              for (std::size_t d = c; d < 3; ++d)
                                  allowed.insert({order[a], order[b], order[c], order[d]});
              return allowed;
          }());
}

void independent_reads() {
    const auto x = [](Shape& s) { s.x.store(1, release); };
    const auto y = [](Shape& s) { s.y.store(1, release); };
    const auto xy = [](Shape& s) { s.r[0] = s.x.load(acquire), s.r[1] = s.y.load(acquire); };
    const auto yx = [](Shape& s) { s.r[2] = s.y.load(acquire), s.r[3] = s.x.load(acquire); };
    const auto xy_fenced = [](Shape& s) { s.r[0] = s.x.load(relaxed), fence_seq_cst(), s.r[1] = s.y.load(relaxed); };
    const auto yx_fenced = [](Shape& s) { s.r[2] = s.y.load(relaxed), fence_seq_cst(), s.r[3] = s.x.load(relaxed); };
    Outcomes all;
    for (int i = 0; i < 16; ++i)
        all.insert({static_cast<char>('0' + i / 8), static_cast<char>('0' + i / 4 % 2),
                    static_cast<char>('0' + i / 2 % 2), static_cast<char>('0' + i % 2)});
    check("independent reads of independent writes", 4, "", {x, y, xy, yx}, all);
    all.erase("1010");
    check("independent reads, fences", 4, "", {x, y, xy_fenced, yx_fenced}, all);
    check("read-to-write causality, fences", 3, "",
          {[](Shape& s) { s.x.store(1, relaxed); }, xy_fenced,
           [](Shape& s) { s.y.store(1, relaxed), fence_seq_cst(), s.r[2] = s.x.load(relaxed); }},
          {"000", "001", "010", "011", "101", "110", "111"});
}

void write_orders() {
    const auto xy = [](Shape& s) { s.x.store(1, release), s.y.store(2, release); };
    const auto yx = [](Shape& s) { s.y.store(1, release), s.x.store(2, release); };
    const auto xy_fenced = [](Shape& s) { s.x.store(1, relaxed), fence_seq_cst(), s.y.store(2, relaxed); };
    const auto yx_fenced = [](Shape& s) { s.y.store(1, relaxed), fence_seq_cst(), s.x.store(2, relaxed); };
    check("2+2W", 0, "xy", {xy, yx}, {"11", "12", "21", "22"});
    check("2+2W, fences", 0, "xy", {xy_fenced, yx_fenced}, {"12", "21", "22"});
    check("S", 1, "x",
          {[](Shape& s) { s.x.store(2, relaxed), s.y.store(1, release); },
           [](Shape& s) { s.r[0] = s.y.load(acquire), s.x.store(1, relaxed); }},
          {"01", "02", "11"});
    check("S, relaxed", 1, "x",
          {[](Shape& s) { s.x.store(2, relaxed), s.y.store(1, relaxed); },
           [](Shape& s) { s.r[0] = s.y.load(relaxed), s.x.store(1, relaxed); }},
          {"01", "02", "11", "12"});
    check("R, fences", 1, "y",
          {[](Shape& s) { s.x.store(1, relaxed), fence_seq_cst(), s.y.store(1, relaxed); },
           [](Shape& s) { s.y.store(2, relaxed), fence_seq_cst(), s.r[0] = s.x.load(relaxed); }},
          {"01", "11", "12"});
    check("load buffering (11 is allowed, and not modelled)", 2, "",
          {[](Shape& s) { s.r[0] = s.x.load(relaxed), s.y.store(1, relaxed); },
           [](Shape& s) { s.r[1] = s.y.load(relaxed), s.x.store(1, relaxed); }},
          {"00", "01", "10"});
}

void updates() {
    const auto add = [](Shape& s, int r) {
        std::uint64_t seen = s.x.load(relaxed);
        while (!s.x.compare_exchange_weak(seen, seen + 1, relaxed, relaxed)) {
        }
        s.r[r] = seen;
    };
    static const auto increment = add;
    check("no update is lost", 2, "x", {[](Shape& s) { increment(s, 0); }, [](Shape& s) { increment(s, 1); }},
          {"012", "102"});
    check("one exchange finds what was there", 2, "x",
          {[](Shape& s) { s.r[0] = s.x.exchange(1, relaxed); }, [](Shape& s) { s.r[1] = s.x.exchange(2, relaxed); }},
          {"012", "201"});
    check("nothing comes between an update and what it read", 1, "x",
          {[](Shape& s) { s.r[0] = s.x.exchange(1, relaxed); }, [](Shape& s) { s.x.store(2, relaxed); }}, {"02", "21"});

    const auto head = [](Shape& s) { s.x.store(1, relaxed), s.y.store(1, release); };
    const auto update = [](Shape& s) {
        std::uint64_t one = 1;
        s.y.compare_exchange_strong(one, 2, relaxed);
    };
    const auto reader = [](Shape& s) { s.r[0] = s.y.load(acquire), s.r[1] = s.x.load(relaxed); };
    check("a release sequence goes on through an update", 2, "", {head, update, reader}, {"00", "01", "11", "21"});
    check("a store of the same thread ends it", 2, "",
          {[](Shape& s) { s.x.store(1, relaxed), s.y.store(1, release), s.y.store(2, relaxed); }, reader},
          {"00", "01", "11", "20", "21"});
    check("a compare-and-swap that fails has its failure's order", 2, "",
          {head,
           [](Shape& s) {
               std::uint64_t nine = 9;
               s.y.compare_exchange_strong(nine, 9, release, relaxed);
               s.r[0] = nine, s.r[1] = s.x.load(relaxed);
           }},
          {"00", "01", "10", "11"});
}

void bytes_and_sleep() {
    const auto write = [](Shape& s) {
        const std::uint64_t seven = 7;
        model::Policy::copy(&s.bytes, &seven, 8);
        s.x.store(1, release);
    };
    check("bytes, released and acquired", 1, "",
          {write,
           [](Shape& s) {
               if (s.x.load(acquire) == 1) model::Policy::copy(&s.r[0], &s.bytes, 8);
           }},
          {"0", "7"});
    check("bytes, released and not acquired", 1, "",
          {write,
           [](Shape& s) {
               if (s.x.load(relaxed) == 1) model::Policy::copy(&s.r[0], &s.bytes, 8);
           }},
          {"race"});
    // y is a futex, x the condition.
    const auto wake = [](Shape& s) {
        s.x.store(1, relaxed);
        fence_seq_cst();
        if (s.y.exchange(0, relaxed) != 0) Explorer::the().futex_wake(s.y.id(), model::Site::current());
    };
    const auto sleep_until_x = [](Shape& s, bool fenced) {
        s.y.store(1, relaxed);
        if (fenced) fence_seq_cst();
        if (s.x.load(relaxed) != 1 &&
            Explorer::the().futex_wait(s.y.id(), 1, model::Site::current()) == model::WaitResult::timed_out)
            Explorer::the().fail("lost wake-up");
    };
    static const auto wait = sleep_until_x;
    check("parking", 0, "x", {wake, [](Shape& s) { wait(s, true); }}, {"1"});
    check("parking without the sleeper's fence", 0, "x", {wake, [](Shape& s) { wait(s, false); }}, {"lost wake-up"});
    check("parking without the waker's fence", 0, "x",
          {[](Shape& s) {
               s.x.store(1, relaxed);
               if (s.y.exchange(0, relaxed) != 0) Explorer::the().futex_wake(s.y.id(), model::Site::current());
           },
           [](Shape& s) { wait(s, true); }},
          {"lost wake-up"});
    check("a killed thread stops anywhere, and its lock is free", 1, "x",
          {[](Shape& s) {
               Explorer::the().lock(0, model::Site::current());
               s.x.store(1, relaxed), s.x.store(2, relaxed);
               Explorer::the().unlock(0, model::Site::current());
           },
           [](Shape&) { Explorer::the().kill(0, model::Site::current()); },
           [](Shape& s) {
               Explorer::the().lock(0, model::Site::current());
               s.r[0] = s.x.load(relaxed);
               Explorer::the().unlock(0, model::Site::current());
           }},
          {"00", "01", "02", "11", "22"});  //
}

}  // namespace

int main() {
    store_buffering();
    message_passing();
    coherence();
    independent_reads();
    write_orders();
    updates();
    bytes_and_sleep();
    std::printf("litmus: %s; %llu executions, %llu without the reduction\n",
                failures == 0 ? "all as C++20 says" : "WRONG", static_cast<unsigned long long>(executions),
                static_cast<unsigned long long>(unreduced));
    return failures == 0 ? 0 : 1;
}
