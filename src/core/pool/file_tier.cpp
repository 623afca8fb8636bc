#include "pool/file_tier.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <thread>
#include <type_traits>

#include "errors.hpp"
#include "platform/clock.hpp"
#include "pool/checksum.hpp"
#include "threads.hpp"

namespace ringcast::pool {

namespace {

constexpr std::uint32_t kVersion = 2;
constexpr std::uint32_t kByteOrder = 0x0102'0304;
constexpr std::array<char, 16> kFileMagic{'r', 'i', 'n', 'g', 'c', 'a', 's', 't', ' ', 't', 'i', 'e', 'r', '\n'};
constexpr std::uint64_t kSlotMagic = 0x746f'6c73'7265'6974;  // "tierslot"
constexpr std::uint64_t kServerByte = 0;
constexpr std::size_t kIndexThreads = 8;  // headers lie far apart, so the disk is asked for several at once

// Less than a sector, which a loss of power leaves old or new.
struct FileHeader {
    std::array<char, 16> magic;
    std::uint32_t byte_order;
    std::uint32_t version;
    std::uint64_t size;
    std::uint64_t chunk_bytes;
    std::uint64_t era;
    std::uint32_t pid;  // of who has it, or had it last
    std::uint32_t crc;  // of all before
};
struct SlotHeader {
    std::uint64_t magic;
    Digest key;
    std::uint64_t length;
    std::uint64_t era;
    std::uint64_t sequence;  // of two with one key the higher is the later
    TierNote note;
    std::uint32_t bytes_crc;
    std::uint32_t crc;  // of all before
};
static_assert(sizeof(FileHeader) == 56 && sizeof(SlotHeader) == 120);
static_assert(std::is_trivially_copyable_v<FileHeader> && std::is_trivially_copyable_v<SlotHeader>);

template <class Header>
std::uint32_t crc_of(const Header& header) noexcept {
    return checksum_of(std::as_bytes(std::span(&header, 1)).first(sizeof header - sizeof header.crc));
}

constexpr std::uint64_t in_blocks(std::uint64_t bytes) { return (bytes + kTierBlock - 1) / kTierBlock * kTierBlock; }

struct AlignedDelete {
    void operator()(std::byte* memory) const noexcept { ::operator delete(memory, std::align_val_t{kTierBlock}); }
};
using Blocks = std::unique_ptr<std::byte, AlignedDelete>;

Blocks new_blocks(std::size_t bytes) noexcept {
    auto* memory = ::operator new(in_blocks(bytes), std::align_val_t{kTierBlock}, std::nothrow);
    return Blocks(static_cast<std::byte*>(memory));
}

enum class Direction { in, out };
constexpr int kEndOfFile = -1;

// 0, an errno, or kEndOfFile.
int transfer(Direction direction, int file, std::span<iovec> parts, std::uint64_t offset) noexcept {
    while (!parts.empty()) {
        const auto count = static_cast<int>(parts.size());
        const ssize_t moved = direction == Direction::out
                                  ? pwritev(file, parts.data(), count, static_cast<off_t>(offset))
                                  : preadv(file, parts.data(), count, static_cast<off_t>(offset));
        if (moved < 0 && errno == EINTR) continue;
        if (moved < 0) return errno;
        if (moved == 0) return direction == Direction::out ? ENOSPC : kEndOfFile;
        auto left = static_cast<std::size_t>(moved);
        offset += left;
        while (!parts.empty() && left >= parts.front().iov_len) {
            left -= parts.front().iov_len;
            parts = parts.subspan(1);
        }
        if (!parts.empty()) {
            parts.front().iov_base = static_cast<std::byte*>(parts.front().iov_base) + left;
            parts.front().iov_len -= left;
        }
    }
    return 0;
}
int transfer(Direction direction, int file, void* memory, std::size_t bytes, std::uint64_t offset) noexcept {
    iovec part{memory, bytes};
    return transfer(direction, file, std::span(&part, 1), offset);
}

// A header and a chunk, in one call where it can be. `copy`: through memory of ours. The chunk is not written to when going out.
int transfer_slot(Direction direction, int file, std::byte* header, std::span<std::byte> bytes, std::uint64_t offset,
                  bool direct, bool copy) noexcept {
    if (!direct) {
        std::array<iovec, 2> parts{iovec{header, kTierBlock}, iovec{bytes.data(), bytes.size()}};
        return transfer(direction, file, parts, offset);
    }
    const std::size_t whole = copy ? 0 : bytes.size() / kTierBlock * kTierBlock;  // straight; the rest through a copy
    const std::span<std::byte> rest = bytes.subspan(whole);
    Blocks blocks;
    if (!rest.empty()) {
        blocks = new_blocks(rest.size());
        if (blocks == nullptr) return ENOMEM;
        if (direction == Direction::out) {
            std::memcpy(blocks.get(), rest.data(), rest.size());
            std::memset(blocks.get() + rest.size(), 0, in_blocks(rest.size()) - rest.size());
        }
    }
    std::array<iovec, 3> parts{iovec{header, kTierBlock}};
    std::size_t count = 1;
    if (whole != 0) parts[count++] = {bytes.data(), whole};
    if (!rest.empty()) parts[count++] = {blocks.get(), in_blocks(rest.size())};
    const int error = transfer(direction, file, std::span(parts).first(count), offset);
    if (error == 0 && direction == Direction::in && !rest.empty()) std::memcpy(rest.data(), blocks.get(), rest.size());
    return error;
}

SlotHeader slot_header(const Digest& key, std::uint64_t length, std::uint64_t era, std::uint64_t sequence,
                       const TierNote& note, std::uint32_t bytes_crc) noexcept {
    SlotHeader header{.magic = kSlotMagic,
                      .key = key,
                      .length = length,
                      .era = era,
                      .sequence = sequence,
                      .note = note,
                      .bytes_crc = bytes_crc,
                      .crc = 0};
    header.crc = crc_of(header);
    return header;
}

[[noreturn]] void refuse(const std::string& path, const std::string& what, int error = 0) {
    throw Error(ErrorCode::tier,
                "tier file '" + path + "': " + what + (error > 0 ? std::string(": ") + std::strerror(error) : ""),
                std::max(error, 0));
}

// 0 or an errno. `really`: has the file system reserved the room?
int grow(int file, std::uint64_t size, bool& really) {
    really = false;
#if defined(__linux__)
    int error = 0;
    do error = fallocate(file, 0, 0, static_cast<off_t>(size)) == 0 ? 0 : errno;
    while (error == EINTR);
    really = error == 0;
    if (error != EOPNOTSUPP) return error;
#endif
    return ftruncate(file, static_cast<off_t>(size)) == 0 ? 0 : errno;
}

bool set_direct(int file, bool on) noexcept {
#if defined(O_DIRECT)
    const int flags = fcntl(file, F_GETFL);
    return flags != -1 && fcntl(file, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
#else
    static_cast<void>(file);
    return !on;
#endif
}

// 0 or an errno.
int sync_file(int file) noexcept {
#if defined(__APPLE__)
    return fcntl(file, F_FULLFSYNC) != -1 ? 0 : errno;
#else
    return fdatasync(file) == 0 ? 0 : errno;
#endif
}

class Stopwatch {
public:
    explicit Stopwatch(std::atomic<std::uint64_t>& total) noexcept : total_(total) {}
    ~Stopwatch() {
        total_.fetch_add(static_cast<std::uint64_t>(platform::monotonic_ns() - began_), std::memory_order_relaxed);
    }
    Stopwatch(const Stopwatch&) = delete;
    Stopwatch& operator=(const Stopwatch&) = delete;

private:
    std::atomic<std::uint64_t>& total_;
    std::int64_t began_ = platform::monotonic_ns();
};

void count(std::atomic<std::uint64_t>& figure, std::uint64_t by = 1) noexcept {
    figure.fetch_add(by, std::memory_order_relaxed);
}

}  // namespace

// Holds the mutex from its beginning; `close` waits until it is gone.
class FileTier::Call {
public:
    explicit Call(FileTier& tier) : lock(tier.mutex_), usable(!tier.closed_ && !tier.in_forked_child()), tier_(tier) {
        ++tier.calls_;
    }
    ~Call() {
        if (!lock.owns_lock()) lock.lock();
        --tier_.calls_;
        tier_.changed_.notify_all();
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    std::unique_lock<std::mutex> lock;
    const bool usable;

private:
    FileTier& tier_;
};

FileTier::FileTier(const Options& options)
    : path_(options.path),
      size_(options.size),
      chunk_bytes_(options.chunk_bytes),
      stride_(kTierBlock + in_blocks(options.chunk_bytes)) {
    if (size_ < kTierBlock + stride_)
        refuse(path_, "of " + std::to_string(size_) + " bytes has no room for one chunk of " +
                          std::to_string(chunk_bytes_) + "; it takes " + std::to_string(kTierBlock + stride_));
    try {
        open(options);
    } catch (...) {
        lock_.close();
        if (file_ != -1) ::close(file_);
        throw;
    }
}

void FileTier::open(const Options& options) {
    constexpr int kFlags = O_RDWR | O_CLOEXEC | O_NONBLOCK;
    file_ = ::open(path_.c_str(), kFlags | O_CREAT | O_EXCL, 0600);
    const bool made = file_ != -1;
    if (!made && errno == EEXIST) file_ = ::open(path_.c_str(), kFlags);
    if (file_ == -1) refuse(path_, "cannot be opened", errno);
    struct stat status{};
    if (fstat(file_, &status) != 0) refuse(path_, "cannot be looked at", errno);
    if (!S_ISREG(status.st_mode)) refuse(path_, "is no regular file");
    const int locked = platform::open_again(file_);
    if (locked == -1) refuse(path_, "cannot be opened a second time, for its lock", errno);
    lock_.adopt(locked, path_);
    if (!lock_.try_lock(kServerByte)) {
        FileHeader header{};
        const bool known = transfer(Direction::in, file_, &header, sizeof header, 0) == 0 &&
                           header.magic == kFileMagic && header.crc == crc_of(header);
        const std::uint32_t pid = known ? header.pid : 0;
        throw Error(ErrorCode::tier,
                    "tier file '" + path_ + "' is in use by " +
                        (pid != 0 ? "process " + std::to_string(pid) : std::string("another process")) +
                        ": end that first, or take another file",
                    pid != 0 ? std::optional(Peer{std::nullopt, pid}) : std::nullopt);
    }
    // Now that nobody else can be making it.
    if (fstat(file_, &status) != 0) refuse(path_, "cannot be looked at", errno);
    const bool fresh = status.st_size == 0;  // or made by one that died before it had a header
    if (!fresh) read_header(options);
    slots_.resize((size_ - kTierBlock) / stride_);
    index_.reserve(slots_.size());
    free_.reserve(slots_.size());
    try {
        // The header first: whatever length the file has when this process dies, it can be told to be a tier's, and is made
        // longer by the next one.
        write_header(getpid());
        if (const int error =
                static_cast<std::uint64_t>(status.st_size) < size_ ? grow(file_, size_, preallocated_) : 0)
            refuse(path_, "cannot have " + std::to_string(size_) + " bytes", error);
    } catch (const Error&) {
        if (made) unlink(path_.c_str());
        if (fresh && !made) static_cast<void>(ftruncate(file_, 0) == 0);  // as it was
        throw;
    }
    direct_ = options.direct && set_direct(file_, true);
    if (direct_) {  // some file systems take the flag and refuse the reads
        const Blocks block = new_blocks(kTierBlock);
        if (block == nullptr || transfer(Direction::in, file_, block.get(), kTierBlock, 0) != 0)
            direct_ = !set_direct(file_, false);
    }
    if (!fresh) read_slots();
    for (std::size_t i = slots_.size(); i-- != 0;)
        if (slots_[i].state == State::free) free_.push_back(i);
}

void FileTier::read_header(const Options& options) {
    FileHeader header{};
    const int error = transfer(Direction::in, file_, &header, sizeof header, 0);
    if (error > 0) refuse(path_, "cannot be read", error);
    if (error == kEndOfFile || header.magic != kFileMagic)
        refuse(path_, "is not a tier's: it is left as it is; remove it, or take another path");
    if (header.byte_order != kByteOrder) refuse(path_, "was made by a machine of another byte order; remove it");
    if (header.version != kVersion)
        refuse(path_,
               "is of version " + std::to_string(header.version) + ", not " + std::to_string(kVersion) + "; remove it");
    if (header.crc != crc_of(header)) refuse(path_, "has a damaged header, so its era is not known; remove it");
    if (header.size != options.size || header.chunk_bytes != options.chunk_bytes)
        refuse(path_, "was made with " + std::to_string(header.size) + " bytes for chunks of " +
                          std::to_string(header.chunk_bytes) + ", not " + std::to_string(options.size) +
                          " for chunks of " + std::to_string(options.chunk_bytes) + "; give those, or remove it");
    era_.store(header.era, std::memory_order_relaxed);
}

void FileTier::write_header(pid_t owner) {
    FileHeader header{.magic = kFileMagic,
                      .byte_order = kByteOrder,
                      .version = kVersion,
                      .size = size_,
                      .chunk_bytes = chunk_bytes_,
                      .era = era(),
                      .pid = static_cast<std::uint32_t>(owner),
                      .crc = 0};
    header.crc = crc_of(header);
    const Blocks block = new_blocks(kTierBlock);
    if (block == nullptr) throw std::bad_alloc();
    std::memset(block.get(), 0, kTierBlock);
    std::memcpy(block.get(), &header, sizeof header);
    if (const int error = transfer(Direction::out, file_, block.get(), kTierBlock, 0))
        refuse(path_, "its header cannot be written", error);
    if (const int unsynced = sync_file(file_)) refuse(path_, "its header cannot be synced", unsynced);
}

void FileTier::read_slots() {
    const std::int64_t began = platform::monotonic_ns();
    const auto read = [this](std::size_t first, std::size_t last) noexcept {
        const Blocks block = new_blocks(kTierBlock);
        for (std::size_t i = first; block != nullptr && i < last; ++i) {
            // What cannot be read is no chunk.
            if (transfer(Direction::in, file_, block.get(), kTierBlock, offset_of(i)) != 0) continue;
            SlotHeader header{};
            std::memcpy(&header, block.get(), sizeof header);
            const bool right = header.magic == kSlotMagic && header.crc == crc_of(header) && header.era == era() &&
                               header.length != 0 && header.length <= chunk_bytes_;
            if (!right) continue;
            slots_[i] = {.key = header.key,
                         .sequence = header.sequence,
                         .length = header.length,
                         .note = header.note,
                         .crc = header.bytes_crc,
                         .state = State::present};
        }
    };
    const std::size_t share = (slots_.size() + kIndexThreads - 1) / kIndexThreads;
    std::vector<std::thread> threads;
    threads.reserve(kIndexThreads);
    std::size_t first = share;
    try {
        for (; first < slots_.size(); first += share)
            threads.push_back(start_without_signals(
                [&read, first, last = std::min(first + share, slots_.size())] { read(first, last); }));
    } catch (const std::system_error&) {  // no more threads: this one reads what is left
        read(first, slots_.size());
    }
    read(0, std::min(share, slots_.size()));
    for (std::thread& thread : threads) thread.join();
    for (std::size_t i = 0; i < slots_.size(); ++i) {
        Slot& slot = slots_[i];
        if (slot.state != State::present) continue;
        sequence_ = std::max(sequence_, slot.sequence);
        const auto [found, is_new] = index_.try_emplace(slot.key, i);
        if (is_new) continue;
        // Twice there, since its slot was given up and not yet written over: the later one counts.
        Slot& other = slots_[found->second];
        const std::size_t earlier = slot.sequence > other.sequence ? found->second : i;
        if (earlier != i) found->second = i;
        slots_[earlier].state = State::free;
        erase(earlier);
    }
    indexed_in_ns_ = static_cast<std::uint64_t>(platform::monotonic_ns() - began);
}

FileTier::~FileTier() { close(); }

void FileTier::close() noexcept {
    if (in_forked_child()) {
        if (file_ != -1) ::close(file_);
        file_ = -1;
        return;
    }
    {
        std::unique_lock lock(mutex_);
        if (closed_) return;
        closed_ = true;
        changed_.wait(lock, [this] { return calls_ == 0; });
    }
    try {
        write_header(0);
    } catch (const std::exception&) {  // the era on disk is what it was, and the pid is only for messages
        sync_file(file_);
    }
    lock_.close();
    ::close(file_);
    file_ = -1;
}

TierOutcome FileTier::failed(const char* what, int error) noexcept {
    count(failed_);
    try {
        std::string text = what + std::string(": ") + (error > 0 ? std::strerror(error) : "the file ends before it");
        const std::lock_guard guard(mutex_);
        last_error_ = std::move(text);
    } catch (const std::bad_alloc&) {  // then there is no text
    }
    return TierOutcome::failed;
}

std::size_t FileTier::claim() {
    if (!free_.empty()) {
        const std::size_t slot = free_.back();
        free_.pop_back();
        return slot;
    }
    for (std::size_t looked = 0; looked < 2 * slots_.size(); ++looked) {
        const std::size_t at = hand_;
        hand_ = (hand_ + 1) % slots_.size();
        Slot& slot = slots_[at];
        if (slot.state != State::present || slot.readers != 0) continue;
        if (slot.used) {
            slot.used = false;
            continue;
        }
        index_.erase(slot.key);
        count(evicted_);
        return at;
    }
    return slots_.size();
}

TierOutcome FileTier::store(const Digest& key, std::span<const std::byte> bytes, const TierNote& note) noexcept {
    count(stores_);
    if (bytes.empty() || bytes.size() > chunk_bytes_) {
        count(refused_);
        return TierOutcome::refused;
    }
    const Stopwatch watch(store_ns_);
    std::size_t at = 0;
    int error = 0;
    {
        Call call(*this);
        if (!call.usable || broken_) {
            count(refused_);
            return TierOutcome::refused;
        }
        for (auto found = index_.find(key); found != index_.end(); found = index_.find(key)) {
            Slot& there = slots_[found->second];
            if (there.state == State::present && there.length == bytes.size()) {
                there.used = true;
                count(stored_);
                return TierOutcome::done;
            }
            if (there.state == State::present) {  // of another length: it can be no more than one of them
                count(refused_);
                return TierOutcome::refused;
            }
            changed_.wait(call.lock);  // another call stores it
        }
        at = claim();
        if (at == slots_.size()) {
            count(refused_);
            return TierOutcome::refused;
        }
        Slot& slot = slots_[at];
        slot = {.key = key, .sequence = ++sequence_, .length = bytes.size(), .note = note, .state = State::writing};
        try {
            index_.emplace(key, at);
        } catch (const std::bad_alloc&) {
            slot.state = State::free;
            free_.push_back(at);  // which has room for all
            count(refused_);
            return TierOutcome::refused;
        }
        const std::uint64_t sequence = slot.sequence;
        const std::uint64_t era_then = era();
        call.lock.unlock();

        const std::uint32_t crc = checksum_of(bytes);
        const Blocks block = new_blocks(kTierBlock);
        error = ENOMEM;
        if (block != nullptr) {
            std::memset(block.get(), 0, kTierBlock);
            const SlotHeader header = slot_header(key, bytes.size(), era_then, sequence, note, crc);
            std::memcpy(block.get(), &header, sizeof header);
            // A system call takes memory that it only reads as if it might write to it.
            const std::span<std::byte> memory(const_cast<std::byte*>(bytes.data()), bytes.size());
            const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
            bool copy = direct_ && address % alignment_.load(std::memory_order_relaxed) != 0;
            error = transfer_slot(Direction::out, file_, block.get(), memory, offset_of(at), direct_, copy);
            if (error == EINVAL && direct_ && !copy && address % kTierBlock != 0) {
                alignment_.store(kTierBlock, std::memory_order_relaxed);
                copy = true;
                error = transfer_slot(Direction::out, file_, block.get(), memory, offset_of(at), direct_, copy);
            }
            if (copy) count(copied_);
        }
        if (error != 0) erase(at);  // or who lay there before is found again one day, after it was removed elsewhere

        call.lock.lock();
        slot.crc = crc;
        const bool kept = error == 0 && era() == era_then;
        if (kept) {
            slot.state = State::present;
            count(stored_);
            count(stored_bytes_, bytes.size());
        } else {
            // Nothing lies there, or what is of an older era.
            if (const auto found = index_.find(key); found != index_.end() && found->second == at) index_.erase(found);
            slot.state = State::free;
            free_.push_back(at);
        }
        if (kept) return TierOutcome::done;
    }
    if (error != 0) return failed("a chunk could not be written", error);
    count(refused_);
    return TierOutcome::refused;
}

TierOutcome FileTier::load(const Digest& key, std::span<std::byte> into) noexcept {
    count(loads_);
    const Stopwatch watch(load_ns_);
    int error = 0;
    {
        Call call(*this);
        const auto found = call.usable ? index_.find(key) : index_.end();
        if (found == index_.end()) return TierOutcome::absent;
        const std::size_t at = found->second;
        Slot& slot = slots_[at];
        if (slot.state != State::present || slot.length != into.size()) return TierOutcome::absent;
        ++slot.readers;
        const std::uint64_t era_then = era();
        const SlotHeader expected = slot_header(key, slot.length, era_then, slot.sequence, slot.note, slot.crc);
        call.lock.unlock();

        const Blocks block = new_blocks(kTierBlock);
        error = ENOMEM;
        bool right = false;
        if (block != nullptr) {
            const auto address = reinterpret_cast<std::uintptr_t>(into.data());
            bool copy = direct_ && address % alignment_.load(std::memory_order_relaxed) != 0;
            error = transfer_slot(Direction::in, file_, block.get(), into, offset_of(at), direct_, copy);
            if (error == EINVAL && direct_ && !copy && address % kTierBlock != 0) {
                alignment_.store(kTierBlock, std::memory_order_relaxed);
                copy = true;
                error = transfer_slot(Direction::in, file_, block.get(), into, offset_of(at), direct_, copy);
            }
            if (copy) count(copied_);
            right = error == 0 && std::memcmp(block.get(), &expected, sizeof expected) == 0 &&
                    checksum_of(into) == expected.bytes_crc;
        }

        call.lock.lock();
        --slot.readers;
        changed_.notify_all();
        if (era() != era_then) {  // cleared meanwhile; the last of its readers gives the slot back
            if (slot.state == State::dropping && slot.readers == 0) {
                slot.state = State::free;
                free_.push_back(at);
            }
            return TierOutcome::absent;
        }
        if (right) {
            slot.used = true;
            count(hits_);
            count(loaded_bytes_, into.size());
            return TierOutcome::done;
        }
        if (error == 0 || error == kEndOfFile) {
            count(corrupt_);
            if (slot.state == State::present && slot.sequence == expected.sequence) {
                index_.erase(key);
                slot.state = State::writing;
                changed_.wait(call.lock, [&slot] { return slot.readers == 0; });
                call.lock.unlock();
                erase(at);
                call.lock.lock();
                slot.state = State::free;
                free_.push_back(at);
            }
            return TierOutcome::corrupt;
        }
    }
    return failed("a chunk could not be read", error);
}

void FileTier::erase(std::size_t slot) noexcept {
    const Blocks block = new_blocks(kTierBlock);
    if (block == nullptr) return;
    std::memset(block.get(), 0, kTierBlock);
    if (const int error = transfer(Direction::out, file_, block.get(), kTierBlock, offset_of(slot)))
        failed("a chunk could not be erased", error);
}

bool FileTier::exists(const Digest& key) noexcept {
    const std::lock_guard guard(mutex_);
    const auto found = index_.find(key);
    return !closed_ && found != index_.end() && slots_[found->second].state == State::present;
}

TierOutcome FileTier::remove(const Digest& key) noexcept {
    Call call(*this);
    if (!call.usable) return TierOutcome::absent;
    auto found = index_.find(key);
    while (found != index_.end() && slots_[found->second].state == State::writing) {
        changed_.wait(call.lock);
        found = index_.find(key);
    }
    if (found == index_.end()) return TierOutcome::absent;
    const std::size_t at = found->second;
    Slot& slot = slots_[at];
    index_.erase(found);
    slot.state = State::writing;
    changed_.wait(call.lock, [&slot] { return slot.readers == 0; });
    call.lock.unlock();
    erase(at);
    call.lock.lock();
    slot.state = State::free;
    free_.push_back(at);
    return TierOutcome::done;
}

void FileTier::clear(std::uint64_t era) {
    const std::lock_guard one_at_a_time(header_);
    Call call(*this);
    if (!call.usable) refuse(path_, "is closed");
    if (era < this->era())
        refuse(path_, "its era is " + std::to_string(this->era()) + " and never goes back to " + std::to_string(era));
    if (era == this->era() && !broken_) return;
    // Here first, so that nothing old is found from now on, whatever becomes of the header.
    era_.store(era, std::memory_order_relaxed);
    index_.clear();
    for (std::size_t i = 0; i < slots_.size(); ++i) {
        Slot& slot = slots_[i];
        if (slot.state != State::present) continue;  // who writes there finds another era, and gives it back
        slot.state = slot.readers == 0 ? State::free : State::dropping;
        if (slot.readers == 0) free_.push_back(i);
    }
    broken_ = true;
    call.lock.unlock();
    write_header(getpid());
    call.lock.lock();
    broken_ = false;
}

TierOutcome FileTier::sync() noexcept {
    int error = 0;
    {
        Call call(*this);
        if (!call.usable) return TierOutcome::refused;
        call.lock.unlock();
        error = sync_file(file_);
    }
    return error == 0 ? TierOutcome::done : failed("the file could not be synced", error);
}

FileTier::Counts FileTier::counts() const noexcept {
    const auto of = [](const std::atomic<std::uint64_t>& figure) { return figure.load(std::memory_order_relaxed); };
    return {.stores = of(stores_),
            .stored = of(stored_),
            .stored_bytes = of(stored_bytes_),
            .store_ns = of(store_ns_),
            .loads = of(loads_),
            .hits = of(hits_),
            .loaded_bytes = of(loaded_bytes_),
            .load_ns = of(load_ns_),
            .refused = of(refused_),
            .failed = of(failed_),
            .corrupt = of(corrupt_),
            .evicted = of(evicted_),
            .copied = of(copied_)};
}

std::vector<FileTier::Content> FileTier::contents() const {
    std::vector<Content> all;
    {
        const std::lock_guard guard(mutex_);
        all.reserve(index_.size());
        for (const auto& [key, at] : index_) {
            const Slot& slot = slots_[at];
            if (slot.state == State::present) all.push_back({key, slot.note, slot.length, slot.sequence, slot.crc});
        }
    }
    std::ranges::sort(all, {}, &Content::sequence);
    return all;
}

std::size_t FileTier::used() const {
    const std::lock_guard guard(mutex_);
    return index_.size();
}

std::string FileTier::last_error() const {
    const std::lock_guard guard(mutex_);
    return last_error_;
}

}  // namespace ringcast::pool
