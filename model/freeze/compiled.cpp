// A chunk of plain flags between two processes: `freeze bare|pausing|calling|relaxed` polls for a message in a child while
// the parent writes it, and says what became of the child. docs/freeze.md says why.
#include "freeze_ring.hpp"

#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <new>
#include <string_view>

namespace {

using ringcast::model::FreezeChunk;

constexpr std::size_t kReaders = 4;
constexpr std::size_t kBytes = 64;
constexpr int kPatienceMs = 2000;

// What a store and a load are where nothing says that another process looks.
struct Plain {
    template <class T>
    struct atomic {
        T value;
        T load(std::memory_order) const noexcept { return value; }
        void store(T to, std::memory_order) noexcept { value = to; }
    };
    static void copy(void* to, const void* from, std::size_t bytes) noexcept { std::memcpy(to, from, bytes); }
};
struct Relaxed {
    template <class T>
    using atomic = std::atomic<T>;
    static void copy(void* to, const void* from, std::size_t bytes) noexcept { std::memcpy(to, from, bytes); }
};

template <class P>
using Chunk = FreezeChunk<P, kReaders, kBytes>;

template <class P>
struct Shared {
    Chunk<P> chunk;
    std::atomic<bool> polling{false};
};

void nap() {
    const timespec millisecond{.tv_sec = 0, .tv_nsec = 1'000'000};
    nanosleep(&millisecond, nullptr);
}

enum Came : int { in_time = 0, too_early = 1 };

enum class Loop { bare, pausing, calling };

// The child.
template <class P, Loop kLoop>
[[noreturn]] __attribute__((noinline)) void poll(Shared<P>& shared) {
    shared.polling.store(true);
    while (!shared.chunk.readable(0)) {
        if constexpr (kLoop == Loop::pausing) asm volatile("");  // as a pause instruction: says nothing of memory
        if constexpr (kLoop == Loop::calling) sched_yield();     // may change any memory, for all the compiler knows
    }
    const volatile auto* written = reinterpret_cast<const volatile std::uint8_t*>(&shared.chunk.written);
    _exit(*written == 1 ? in_time : too_early);
}

template <class P, Loop kLoop>
const char* run() {
    void* memory = mmap(nullptr, sizeof(Shared<P>), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return "no memory";
    auto& shared = *new (memory) Shared<P>{};
    const pid_t child = fork();
    if (child == 0) poll<P, kLoop>(shared);
    while (!shared.polling.load()) nap();
    for (int i = 0; i < 50; ++i) nap();  // it has looked for the first time
    const std::byte message[kBytes]{};
    shared.chunk.write(message);
    for (int waited = 0; waited < kPatienceMs; ++waited) {
        int status = 0;
        if (waitpid(child, &status, WNOHANG) == child)
            return WIFEXITED(status) && WEXITSTATUS(status) == in_time ? "went on" : "went on before the message";
        nap();
    }
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    return "froze";
}

}  // namespace

// To be disassembled: what is left of the order in which the flags are stored?
extern "C" {
void write_plain(Chunk<Plain>& chunk, const std::byte* from) { chunk.write(from); }
void write_relaxed(Chunk<Relaxed>& chunk, const std::byte* from) { chunk.write(from); }
}

int main(int argc, char** argv) {
    const std::string_view how = argc == 2 ? argv[1] : "";
    if (how == "bare")
        std::puts(run<Plain, Loop::bare>());
    else if (how == "pausing")
        std::puts(run<Plain, Loop::pausing>());
    else if (how == "calling")
        std::puts(run<Plain, Loop::calling>());
    else if (how == "relaxed")
        std::puts(run<Relaxed, Loop::bare>());
    else
        return 2;
    return 0;
}
