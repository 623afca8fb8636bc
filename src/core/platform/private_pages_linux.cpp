// Linux: /proc/self/pagemap, asked by PAGEMAP_SCAN (6.7) or read, and MADV_DONTNEED.
#include "platform/private_pages.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>

#include "platform/lock_file.hpp"
#include "platform/shared_file.hpp"

namespace ringcast::platform {

namespace {

// As in <linux/fs.h>, which older systems have without them.
struct ScanRegion {
    std::uint64_t start, end, categories;
};
struct ScanArguments {
    std::uint64_t size, flags, start, end, walk_end, regions, region_count, max_pages, inverted, mask, any_of, returned;
};
constexpr unsigned long kScan = _IOWR('f', 16, ScanArguments);
constexpr std::uint64_t kIsFile = 1 << 2;
constexpr std::uint64_t kIsPresent = 1 << 3;
constexpr std::uint64_t kIsSwapped = 1 << 4;

int open_page_map() noexcept {
    int descriptor = 0;
    do descriptor = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    while (descriptor == -1 && errno == EINTR);
    return descriptor;
}

// One for all mappings, kept open for as long as the process lives, since to open it takes several times as long as to ask
// it: its descriptor, and which fork's it is, in one word. A forked child's first call leaves its parent's, which is not
// its own to ask, open: by then the number may be anything's. relaxed: nothing else hangs on it.
std::atomic<std::uint64_t> page_map_word{UINT64_MAX};

int page_map() noexcept {
    const std::uint64_t generation = fork_generation();
    std::uint64_t word = page_map_word.load(std::memory_order_relaxed);
    if (word >> 32 == generation) [[likely]]
        return static_cast<std::int32_t>(word);
    const int opened = open_page_map();
    if (opened == -1) return -1;
    const std::uint64_t ours = generation << 32 | static_cast<std::uint32_t>(opened);
    if (page_map_word.compare_exchange_strong(word, ours, std::memory_order_relaxed)) return opened;
    ::close(opened);
    return static_cast<std::int32_t>(word);
}

bool drop(std::byte* begin, std::uint64_t bytes) noexcept { return madvise(begin, bytes, MADV_DONTNEED) == 0; }

enum class Outcome { done, refused, unknown };

// Pages of [begin, end) that are here, or swapped out, and not the file's.
Outcome discard_scanned(int page_map, std::byte* begin, std::byte* end) noexcept {
    ScanRegion regions[32];
    bool dropped = true;
    while (begin < end) {
        ScanArguments scan{};
        scan.size = sizeof scan;
        scan.start = reinterpret_cast<std::uintptr_t>(begin);
        scan.end = reinterpret_cast<std::uintptr_t>(end);
        scan.regions = reinterpret_cast<std::uintptr_t>(regions);
        scan.region_count = std::size(regions);
        scan.inverted = kIsFile;
        scan.mask = kIsFile;
        scan.any_of = kIsPresent | kIsSwapped;
        scan.returned = kIsFile;
        const int found = ioctl(page_map, kScan, &scan);
        if (found == -1 && errno == EINTR) continue;
        if (found < 0 || scan.walk_end <= scan.start) return Outcome::unknown;
        for (int i = 0; i < found; ++i)
            dropped =
                drop(reinterpret_cast<std::byte*>(regions[i].start), regions[i].end - regions[i].start) && dropped;
        begin = reinterpret_cast<std::byte*>(scan.walk_end);
    }
    return dropped ? Outcome::done : Outcome::refused;
}

Outcome discard_listed(int page_map, std::byte* begin, std::byte* end) noexcept {
    constexpr std::uint64_t kFilePage = std::uint64_t{1} << 61;
    constexpr std::uint64_t kSwapped = std::uint64_t{1} << 62;
    constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
    constexpr std::size_t kBatch = 512;
    const std::uint64_t page = page_bytes();
    std::uint64_t entries[kBatch];
    bool dropped = true;
    while (begin < end) {
        const std::uint64_t count = std::min<std::uint64_t>(kBatch, static_cast<std::uint64_t>(end - begin) / page);
        const auto at = static_cast<off_t>(reinterpret_cast<std::uintptr_t>(begin) / page * sizeof(std::uint64_t));
        const auto wanted = static_cast<ssize_t>(count * sizeof(std::uint64_t));
        if (pread(page_map, entries, static_cast<std::size_t>(wanted), at) != wanted) return Outcome::unknown;
        for (std::uint64_t i = 0; i < count;) {
            std::uint64_t behind = i;
            while (behind < count &&
                   ((entries[behind] & (kPresent | kFilePage)) == kPresent || (entries[behind] & kSwapped) != 0))
                ++behind;
            if (behind > i) dropped = drop(begin + i * page, (behind - i) * page) && dropped;
            i = behind + (behind == i ? 1 : 0);
        }
        begin += count * page;
    }
    return dropped ? Outcome::done : Outcome::refused;
}

std::optional<std::uint64_t> ask_for_faults() noexcept {
    struct rusage usage{};
    if (getrusage(RUSAGE_SELF, &usage) != 0) return std::nullopt;
    return static_cast<std::uint64_t>(usage.ru_minflt) + static_cast<std::uint64_t>(usage.ru_majflt);
}

// Some sandboxes tell nothing but times.
bool counts_faults() noexcept {
    const std::uint64_t page = page_bytes();
    void* const fresh = mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED) return false;
    const auto before = ask_for_faults();
    *static_cast<volatile std::byte*>(fresh) = std::byte{1};
    const bool counted = ask_for_faults() != before;
    munmap(fresh, page);
    return counted;
}

}  // namespace

std::optional<std::uint64_t> page_faults() noexcept {
    static const bool are_counted = counts_faults();
    if (!are_counted) return std::nullopt;
    return ask_for_faults();
}

bool discard_written(void* address, std::uint64_t bytes) noexcept {
    auto* const begin = static_cast<std::byte*>(address);
    // Whatever else may have the descriptor's number by now knows no such call, or is no file of this kind.
    Outcome outcome = discard_scanned(page_map(), begin, begin + bytes);
    if (outcome == Outcome::unknown) {
        const int fresh = open_page_map();
        if (fresh != -1) {
            outcome = discard_listed(fresh, begin, begin + bytes);
            ::close(fresh);
        }
    }
    if (outcome == Outcome::unknown) return drop(begin, bytes);
    return outcome == Outcome::done;
}

}  // namespace ringcast::platform
