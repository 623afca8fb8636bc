// Makes the k-th call of one C library function fail, if ringcast's extension module made it; and counts such calls.
//
// Preloaded, so that it stands in front of the C library. A call counts if it returns into the module's code: those of
// the interpreter and of the C++ library are left alone.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static uintptr_t module_begin, module_end;
static const char *armed_function = "";
static long armed_call, armed_repeats;
static int armed_errno;

enum { MOST_FUNCTIONS = 32 };
static struct {
    const char *name;
    long calls;
} counted[MOST_FUNCTIONS];

void fail_module(uintptr_t begin, uintptr_t end) {
    module_begin = begin;
    module_end = end;
}

// From now on the call number `call` (1 is the first) of `function`, and `repeats` more after it, fail with `error`.
// An empty function only counts. `function` must stay valid.
void fail_arm(const char *function, long call, long repeats, int error) {
    for (int i = 0; i < MOST_FUNCTIONS; ++i) counted[i].calls = 0;
    armed_function = function;
    armed_call = call;
    armed_repeats = repeats;
    armed_errno = error;
}

long fail_count(const char *function) {
    for (int i = 0; i < MOST_FUNCTIONS && counted[i].name != NULL; ++i)
        if (strcmp(counted[i].name, function) == 0) return counted[i].calls;
    return 0;
}

static int fails(const char *function, void *caller) {
    if ((uintptr_t)caller < module_begin || (uintptr_t)caller >= module_end) return 0;
    for (int i = 0; i < MOST_FUNCTIONS; ++i) {
        if (counted[i].name == NULL) counted[i].name = function;
        if (strcmp(counted[i].name, function) != 0) continue;
        const long call = ++counted[i].calls;
        if (strcmp(armed_function, function) != 0 || call < armed_call || call > armed_call + armed_repeats) return 0;
        errno = armed_errno;
        return 1;
    }
    return 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAILS(name) fails(name, __builtin_return_address(0))
// A stand-in that fails without doing anything.
#define INSTEAD(type, name, failure, parameters, ...)  \
    type name parameters {                             \
        static __typeof__(&name) real;                 \
        if (real == NULL) real = REAL(name);           \
        return FAILS(#name) ? failure : real(__VA_ARGS__); \
    }
// One that does its work and then says that it failed.
#define AFTERWARDS(name, parameters, ...)              \
    int name parameters {                              \
        static __typeof__(&name) real;                 \
        if (real == NULL) real = REAL(name);           \
        const int result = real(__VA_ARGS__);          \
        return FAILS(#name) ? -1 : result;             \
    }

INSTEAD(int, fstat, -1, (int fd, struct stat *info), fd, info)
INSTEAD(int, stat, -1, (const char *path, struct stat *info), path, info)
INSTEAD(int, lstat, -1, (const char *path, struct stat *info), path, info)
INSTEAD(int, statvfs, -1, (const char *path, struct statvfs *info), path, info)
INSTEAD(int, fchmod, -1, (int fd, mode_t mode), fd, mode)
INSTEAD(int, ftruncate, -1, (int fd, off_t size), fd, size)
INSTEAD(int, fallocate, -1, (int fd, int mode, off_t offset, off_t size), fd, mode, offset, size)
INSTEAD(int, linkat, -1, (int f, const char *from, int t, const char *to, int flags), f, from, t, to, flags)
INSTEAD(int, unlink, -1, (const char *path), path)
INSTEAD(int, mprotect, -1, (void *address, size_t size, int protection), address, size, protection)
INSTEAD(int, madvise, -1, (void *address, size_t size, int advice), address, size, advice)
INSTEAD(ssize_t, pread, -1, (int fd, void *to, size_t size, off_t offset), fd, to, size, offset)
INSTEAD(ssize_t, getrandom, -1, (void *to, size_t size, unsigned flags), to, size, flags)
INSTEAD(int, sched_getaffinity, -1, (pid_t pid, size_t size, cpu_set_t *set), pid, size, set)
INSTEAD(int, getrusage, -1, (__rusage_who_t who, struct rusage *usage), who, usage)
INSTEAD(DIR *, opendir, NULL, (const char *path), path)
INSTEAD(void *, mmap, MAP_FAILED, (void *at, size_t size, int protection, int flags, int fd, off_t offset), at, size,
        protection, flags, fd, offset)
AFTERWARDS(munmap, (void *address, size_t size), address, size)
AFTERWARDS(close, (int fd), fd)

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return FAILS("open") ? -1 : REAL(open)(path, flags, mode);
}

int fcntl(int fd, int command, ...) {
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return FAILS("fcntl") ? -1 : REAL(fcntl)(fd, command, argument);
}

int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return FAILS("ioctl") ? -1 : REAL(ioctl)(fd, request, argument);
}

long syscall(long number, ...) {
    va_list rest;
    va_start(rest, number);
    long a[6];
    for (int i = 0; i < 6; ++i) a[i] = va_arg(rest, long);
    va_end(rest);
    return FAILS("syscall") ? -1 : REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
