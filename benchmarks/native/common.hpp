// What every measurement of the floor program shares: pinning, a clock, memory shared with forked children, and figures
// printed as JSON. Promises nothing about speed itself: whatever is timed is in the measurement's own file.
#pragma once

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace floor_program {

// Two lines, because the adjacent-line prefetcher fetches them in pairs.
inline constexpr std::size_t kLinePair = 128;

inline std::uint64_t now_ns() {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(t.tv_nsec);
}

inline void sleep_ns(std::uint64_t ns) {
    timespec t{static_cast<time_t>(ns / 1'000'000'000u), static_cast<long>(ns % 1'000'000'000u)};
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {
    }
}

inline void pause_cpu() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield" ::: "memory");
#endif
}

// Spins until `done` says so; now and then gives way, so that one CPU for both sides is slow and not a standstill.
template <class Done>
void spin_until(Done done) {
    for (std::uint32_t spins = 1; !done(); ++spins) {
        if ((spins & 0x3fff) == 0) {
            sched_yield();
        } else {
            pause_cpu();
        }
    }
}

inline void pin_to(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        throw std::runtime_error("cannot pin to CPU " + std::to_string(cpu) + ": " + std::strerror(errno));
    }
}

// An object of type T in memory that forked children share; gone with the last process that maps it.
template <class T>
class Shared {
public:
    Shared() {
        void* where = mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (where == MAP_FAILED) {
            throw std::runtime_error(std::string("cannot map shared memory: ") + std::strerror(errno));
        }
        object_ = new (where) T();
    }
    ~Shared() { munmap(object_, sizeof(T)); }
    Shared(const Shared&) = delete;
    Shared& operator=(const Shared&) = delete;
    T* operator->() { return object_; }
    T& operator*() { return *object_; }

private:
    T* object_;
};

// A forked child that runs `body` and exits; killed with its parent, waited for by join().
class Child {
public:
    explicit Child(const std::function<void()>& body) : pid_(fork()) {
        if (pid_ < 0) {
            throw std::runtime_error(std::string("cannot fork: ") + std::strerror(errno));
        }
        if (pid_ == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            int status = 1;
            try {
                body();
                status = 0;
            } catch (const std::exception& error) {
                std::fprintf(stderr, "ringcast_floor: in a child: %s\n", error.what());
            }
            _exit(status);
        }
    }
    Child(Child&& other) noexcept : pid_(other.pid_) { other.pid_ = 0; }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;
    ~Child() {
        if (pid_ > 0) {
            kill(pid_, SIGKILL);
            waitpid(pid_, nullptr, 0);
        }
    }
    void join() {
        int status = 0;
        waitpid(pid_, &status, 0);
        pid_ = 0;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            throw std::runtime_error("a child of the measurement failed");
        }
    }

private:
    pid_t pid_;
};

// The value below which `share` of the values lie. Sorts `values`.
inline double percentile(std::vector<double>& values, double share) {
    std::sort(values.begin(), values.end());
    const auto at = static_cast<std::size_t>(share * static_cast<double>(values.size() - 1) + 0.5);
    return values[at];
}

}  // namespace floor_program
