// Lock bytes: held until the holder closes or dies, and never kept alive by a forked child.
#include "platform/lock_file.hpp"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "errors.hpp"

using ringcast::platform::fork_generation;
using ringcast::platform::LockFile;

namespace {

#if defined(__APPLE__)
// Files have names here, and /dev/fd gives the same open file once more.
int make_file() {
    char path[] = "/tmp/ringcast_lock_file_test_XXXXXX";
    const int descriptor = ::mkstemp(path);
    CHECK(descriptor != -1);
    return descriptor;
}
int open_again(int descriptor) {
    char path[PATH_MAX];
    CHECK(::fcntl(descriptor, F_GETPATH, path) == 0);
    const int again = ::open(path, O_RDWR | O_CLOEXEC);
    CHECK(again != -1);
    return again;
}
#else
int make_file() {
    const int descriptor = ::open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    CHECK(descriptor != -1);
    return descriptor;
}
int open_again(int descriptor) {
    const int again = ::open(("/proc/self/fd/" + std::to_string(descriptor)).c_str(), O_RDWR | O_CLOEXEC);
    CHECK(again != -1);
    return again;
}
#endif
int exit_code_of(pid_t child) {
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace

TEST(a_byte_is_held_by_one_lock_file_at_a_time) {
    const int file = make_file();
    LockFile a(open_again(file));
    LockFile b(open_again(file));
    CHECK(a.try_lock(3));
    CHECK(a.try_lock(3));
    CHECK(!b.try_lock(3));
    CHECK(b.is_held_by_another(3));
    CHECK(!a.is_held_by_another(3));
    CHECK(b.try_lock(4));
    CHECK(b.try_lock((std::uint64_t{1} << 32) + 3));
    a.unlock(3);
    CHECK(!b.is_held_by_another(3));
    CHECK(b.try_lock(3));
    b.close();
    b.close();
    CHECK(a.try_lock(3));
    CHECK(a.try_lock(4));
    ::close(file);
}

TEST(a_forked_child_neither_holds_nor_releases_its_parent_s_locks) {
    const int file = make_file();
    LockFile a(open_again(file));
    LockFile b(open_again(file));
    CHECK(a.try_lock(1));
    const std::uint32_t generation = fork_generation();
    const pid_t child = fork();
    if (child == 0) {
        const bool closed = a.descriptor_if_ours() == -1 && b.descriptor_if_ours() == -1;
        a.close();
        _exit(closed && fork_generation() == generation + 1 ? 0 : 1);
    }
    CHECK(exit_code_of(child) == 0);
    CHECK(fork_generation() == generation);
    CHECK(b.is_held_by_another(1));
    ::close(file);
}

TEST(a_lock_is_free_when_its_holder_closes_although_a_forked_child_lives_on) {
    const int file = make_file();
    LockFile a(open_again(file));
    LockFile b(open_again(file));
    CHECK(a.try_lock(1));
    int gate[2];
    int ready[2];
    CHECK(pipe(gate) == 0 && pipe(ready) == 0);
    const pid_t child = fork();
    if (child == 0) {
        ::close(gate[1]);
        char byte = 0;
        if (write(ready[1], "r", 1) != 1) _exit(1);
        _exit(read(gate[0], &byte, 1) == 0 ? 0 : 1);
    }
    ::close(gate[0]);
    char byte = 0;
    CHECK(read(ready[0], &byte, 1) == 1);  // the child's fork handlers have run
    a.close();
    CHECK(!b.is_held_by_another(1));
    CHECK(b.try_lock(1));
    ::close(gate[1]);
    ::close(ready[0]);
    ::close(ready[1]);
    CHECK(exit_code_of(child) == 0);
    ::close(file);
}

TEST(a_killed_process_holds_nothing) {
    const int file = make_file();
    LockFile mine(open_again(file));
    int ready[2];
    CHECK(pipe(ready) == 0);
    const pid_t child = fork();
    if (child == 0) {
        LockFile its(open_again(file));
        const bool locked = its.try_lock(5);
        if (write(ready[1], locked ? "y" : "n", 1) != 1) _exit(1);
        for (;;) pause();
    }
    char answer = 0;
    CHECK(read(ready[0], &answer, 1) == 1 && answer == 'y');
    CHECK(mine.is_held_by_another(5));
    kill(child, SIGKILL);
    CHECK(exit_code_of(child) == -SIGKILL);
    CHECK(mine.try_lock(5));
    ::close(ready[0]);
    ::close(ready[1]);
    ::close(file);
}

TEST(a_descriptor_that_others_closed_is_not_used_when_its_number_leads_to_their_file) {
    const int file = make_file();
    const int theirs = make_file();
    LockFile a(open_again(file));
    LockFile b(open_again(file));
    CHECK(a.try_lock(3));
    const int number = a.descriptor();
    CHECK(::dup2(theirs, number) == number);  // closes ours first
    LockFile other(open_again(theirs));
    struct flock lock{};
    lock.l_type = F_WRLCK;
    lock.l_start = 3;
    lock.l_len = 1;
    CHECK(::fcntl(number, F_OFD_SETLK, &lock) == 0);
    CHECK(!b.is_held_by_another(3));  // what was ours is lost
    CHECK_THROWS(a.try_lock(4), system);
    CHECK_THROWS(a.is_held_by_another(3), system);
    CHECK_THROWS(a.descriptor(), system);
    a.unlock(3);
    CHECK(other.is_held_by_another(3));
    CHECK(!other.is_held_by_another(4));
    const pid_t child = fork();
    if (child == 0) _exit(::fcntl(number, F_GETFD) == -1 ? 1 : 0);
    CHECK(exit_code_of(child) == 0);
    a.close();
    CHECK(::fcntl(number, F_GETFD) != -1);
    CHECK(other.is_held_by_another(3));
    ::close(number);
    ::close(theirs);
    ::close(file);
}

TEST(a_number_that_another_lock_file_got_is_not_its_former_owner_s_although_it_leads_to_the_same_file) {
    const int file = make_file();
    const int spare = open_again(file);
    LockFile a(open_again(file));
    CHECK(a.try_lock(1));
    const int number = a.descriptor();
    CHECK(::dup2(spare, number) == number);
    LockFile b(number);
    LockFile c(open_again(file));
    CHECK(b.try_lock(1));
    CHECK_THROWS(a.is_held_by_another(1), system);
    a.unlock(1);
    a.close();
    CHECK(c.is_held_by_another(1));
    b.close();
    ::close(spare);  // the same open file
    CHECK(!c.is_held_by_another(1));
    ::close(file);
}

TEST(forking_while_other_threads_open_and_close_lock_files_finds_the_list_whole) {
    const int file = make_file();
    LockFile kept(open_again(file));
    CHECK(kept.try_lock(0));
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t)
        threads.emplace_back([&] {
            while (!stop) {
                LockFile one(open_again(file));
                LockFile two(open_again(file));
                one.close();
            }
        });
    for (int n = 0; n < 20 * check::kScale; ++n) {
        const pid_t child = fork();
        if (child == 0) _exit(kept.descriptor_if_ours() == -1 ? 0 : 1);
        CHECK(exit_code_of(child) == 0);
    }
    stop = true;
    for (auto& thread : threads) thread.join();
    LockFile other(open_again(file));
    CHECK(other.is_held_by_another(0));
    ::close(file);
}
