// The smallest test harness that does: CHECK, and TEST functions that run in order and say their names.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define CHECK(condition)                                                                       \
    do {                                                                                       \
        if (!(condition)) {                                                                    \
            std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", __FILE__, __LINE__, #condition); \
            std::abort();                                                                      \
        }                                                                                      \
    } while (false)

#define CHECK_THROWS(expression, expected_code)                        \
    do {                                                               \
        bool thrown = false;                                           \
        try {                                                          \
            (void)(expression);                                        \
        } catch (const ringcast::Error& error) {                       \
            thrown = true;                                             \
            CHECK(error.code() == ringcast::ErrorCode::expected_code); \
        }                                                              \
        CHECK(thrown);                                                 \
    } while (false)

namespace check {

struct Test {
    const char* name;
    void (*run)();
};
inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}
struct Register {
    Register(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

// Sanitizers and emulators make everything several times slower; they need fewer rounds to see what they can see.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) || defined(RINGCAST_EMULATED)
inline constexpr int kScale = 1;
// So slow are they that a waker may lose its CPU between its store and its wake-up for longer than a park waits for it.
inline constexpr unsigned kForgivenRescues = 2;
#else
inline constexpr int kScale = 10;
inline constexpr unsigned kForgivenRescues = 0;
#endif

// Of threads that take turns, which last milliseconds each where others have the CPUs: so many, or a hundredth of them and
// what more there is time for.
class Rounds {
public:
    explicit Rounds(std::uint64_t most) : most_(most) {}

    bool next() {
        if (done_ == most_ || (done_ > most_ / 100 && std::chrono::steady_clock::now() > end_)) return false;
        ++done_;
        return true;
    }
    std::uint64_t done() const { return done_; }

private:
    std::chrono::steady_clock::time_point end_ = std::chrono::steady_clock::now() + std::chrono::seconds(4);
    std::uint64_t most_;
    std::uint64_t done_ = 0;
};

}  // namespace check

#define TEST(name)                                             \
    static void name();                                        \
    static const check::Register register_##name(#name, name); \
    static void name()

int main() {
    for (const auto& test : check::tests()) {
        std::printf("%s\n", test.name);
        std::fflush(stdout);
        test.run();
    }
    return 0;
}
