#include "platform/probe.hpp"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>

#include "errors.hpp"
#include "platform/futex.hpp"
#include "platform/lock_file.hpp"
#include "platform/shared_file.hpp"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ringcast::platform {

namespace {

void expect(bool works, const char* otherwise) {
    if (!works) throw Error(ErrorCode::system, otherwise);
}

// A file of `bytes` bytes whose name, if it has one already, goes with it.
struct Trial {
    Trial(const std::string& given, std::uint64_t bytes) : name(given), file(SharedFile::create(given, bytes)) {}
    ~Trial() { unlink_name(name); }
    Trial(const Trial&) = delete;
    Trial& operator=(const Trial&) = delete;

    std::string name;
    SharedFile file;
};

void reserve_and_give_back(const std::string& name) {
    const std::uint64_t bytes = 16 * page_bytes();
    const Trial trial(name, bytes);
    const LockFile locks(trial.file.open_for_locks(name));
    expect(reserve(locks.descriptor(), 0, bytes), "there is no memory left for 16 pages");
    if (trial.file.facts().committed == 0) return;  // the system does not tell
    expect(give_back(locks.descriptor(), 0, bytes) && trial.file.facts().committed < bytes,
           "reserved memory cannot be given back");
}

void lock_and_ask(const std::string& name) {
    const Trial trial(name, page_bytes());
    const LockFile ours(trial.file.open_for_locks(name));
    expect(ours.try_lock(1), "a lock that nobody holds cannot be taken");
    {
        const LockFile theirs(trial.file.open_for_locks(name));
        expect(theirs.is_held_by_another(1) && !theirs.try_lock(1), "a lock does not exclude a second holder");
        expect(theirs.try_lock(2) && ours.is_held_by_another(2), "bytes of a file cannot be locked one by one");
    }
    expect(!ours.is_held_by_another(2), "a lock outlives its holder");
}

void sleep_on_a_word(const std::string& name) {
    const Trial trial(name, page_bytes());
    const LockFile memory(trial.file.open_for_locks(name));
    expect(reserve(memory.descriptor(), 0, page_bytes()), "there is no memory left for a page");
    void* page = trial.file.map(0, page_bytes(), true);
    auto& word = *new (page) std::atomic<std::uint32_t>{1};
    const bool changed = futex_wait(word, 0, 1'000'000) == FutexResult::woken;
    FutexResult slept;
    do slept = futex_wait(word, 1, 1'000'000);
    while (slept == FutexResult::interrupted);
    unmap(page, page_bytes());
    expect(changed && slept == FutexResult::timed_out, "a wait for a word of shared memory does not wait");
}

void wait_on_many(const std::string&) {
#if defined(SYS_futex_waitv)
    // No words at all: where the call is known, that is an invalid argument.
    if (syscall(SYS_futex_waitv, nullptr, 0, 0, nullptr, 0) == -1 && errno != EINVAL) throw_system_error("futex_waitv");
#else
    throw Error(ErrorCode::system, "this build knows no such system call");
#endif
}

}  // namespace

std::vector<Probe> probe_features(const std::string& name) {
    const struct {
        const char* feature;
        bool needed;
        std::function<void(const std::string&)> attempt;
    } attempts[] = {
        {"memory reserved and given back", true, reserve_and_give_back},
        {"locks that tell who is alive", true, lock_and_ask},
        {"sleeping on a word of shared memory", true, sleep_on_a_word},
        {"sleeping on many words at once", false, wait_on_many},
    };
    std::vector<Probe> probes;
    for (const auto& [feature, needed, attempt] : attempts) {
        probes.push_back({.feature = feature, .needed = needed, .failure = {}});
        try {
            attempt(name);
        } catch (const Error& error) {
            probes.back().failure = error.what();
        }
    }
    return probes;
}

}  // namespace ringcast::platform
