#include "pool/slot_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <thread>
#include <type_traits>

#include "errors.hpp"
#include "fault_points.hpp"
#include "platform/refusals.hpp"
#include "pool/checksum.hpp"
#include "pool/parts.hpp"
#include "threads.hpp"

namespace ringcast::pool {

namespace {

constexpr std::uint32_t kVersion = 3;
constexpr std::uint32_t kByteOrder = 0x0102'0304;
constexpr std::array<char, 16> kFileMagic{'r', 'i', 'n', 'g', 'c', 'a', 's', 't', ' ', 't', 'i', 'e', 'r', '\n'};
constexpr std::uint64_t kSlotMagic = 0x746f'6c73'7265'6974;  // "tierslot"
constexpr std::uint64_t kServerByte = 0;
constexpr std::size_t kIndexThreads = 8;  // headers lie far apart, so the disk is asked for several at once
// A chunk moves in pieces, each summed by itself: meanwhile the disk has the pieces of other threads, and is never idle
// for as long as it takes to sum a whole chunk. Each is as large as makes no difference to the disk.
#ifdef RINGCAST_FAULT_POINTS
constexpr std::size_t kPiece = 2 * kTierBlock;  // so that a kill can come between the pieces of a small chunk
#else
constexpr std::size_t kPiece = 4 << 20;
#endif

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
    std::uint64_t sequence;
    TierNote note;
    std::uint32_t bytes_crc;
    std::uint32_t crc;  // of all before
};
static_assert(sizeof(FileHeader) == 56 && sizeof(SlotHeader) == 128);
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

constexpr int kEndOfFile = -1;

// 0, an errno, or kEndOfFile.
int transfer(bool out, int file, std::span<iovec> parts, std::uint64_t offset) noexcept {
    while (!parts.empty()) {
#ifdef RINGCAST_FAULT_POINTS  // a block at a time, so that a kill can come between any two
        iovec block{parts.front().iov_base, std::min(parts.front().iov_len, kTierBlock)};
        const std::span<iovec> now(&block, 1);
#else
        const std::span<iovec> now = parts;
#endif
        const auto count = static_cast<int>(now.size());
        const ssize_t moved = out ? pwritev(file, now.data(), count, static_cast<off_t>(offset))
                                  : preadv(file, now.data(), count, static_cast<off_t>(offset));
        if (moved < 0 && errno == EINTR) continue;
        if (moved < 0) return errno;
        if (moved == 0) return out ? ENOSPC : kEndOfFile;
        if (out) reached(FaultPoint::tier_block_written);
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
int transfer(bool out, int file, void* memory, std::size_t bytes, std::uint64_t offset) noexcept {
    iovec part{memory, bytes};
    return transfer(out, file, std::span(&part, 1), offset);
}

// A piece of a chunk, behind its header's block if there is a `header`, in one call where it can be. Of the piece only the
// first `straight` bytes go from and to its own memory, the rest through a copy in whole blocks. It is not written to when
// going out.
int transfer_piece(bool out, int file, std::byte* header, std::span<std::byte> piece, std::size_t straight,
                   std::uint64_t offset) noexcept {
    const std::span<std::byte> rest = piece.subspan(straight);
    Blocks copy;
    if (!rest.empty()) {
        copy = new_blocks(rest.size());
        if (copy == nullptr) return ENOMEM;
        if (out) {
            std::memcpy(copy.get(), rest.data(), rest.size());
            std::memset(copy.get() + rest.size(), 0, in_blocks(rest.size()) - rest.size());
        }
    }
    std::array<iovec, 3> parts{};
    std::size_t count = 0;
    if (header != nullptr) parts[count++] = {header, kTierBlock};
    if (straight != 0) parts[count++] = {piece.data(), straight};
    if (!rest.empty()) parts[count++] = {copy.get(), in_blocks(rest.size())};
    const int error = transfer(out, file, std::span(parts).first(count), offset);
    if (error == 0 && !out && !rest.empty()) std::memcpy(rest.data(), copy.get(), rest.size());
    return error;
}

template <class Byte>
std::span<Byte> piece_of(std::span<Byte> bytes, std::size_t at) noexcept {
    return bytes.subspan(at, std::min(kPiece, bytes.size() - at));
}

// 0 or an errno. `really`: has the file system reserved the room?
int grow(int file, std::uint64_t size, bool& really) {
    really = false;
    if (platform::exceeds_file_size_limit(size)) return EFBIG;
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

// A block with `header` at its beginning; null if there is no memory.
template <class Header>
Blocks block_of(const Header& header) noexcept {
    Blocks block = new_blocks(kTierBlock);
    if (block == nullptr) return block;
    std::memset(block.get(), 0, kTierBlock);
    std::memcpy(block.get(), &header, sizeof header);
    return block;
}

SlotHeader header_of(const SlotFile::Record& record) noexcept {
    SlotHeader header{.magic = kSlotMagic,
                      .key = record.key,
                      .length = record.length,
                      .era = record.era,
                      .sequence = record.sequence,
                      .note = record.note,
                      .bytes_crc = record.crc,
                      .crc = 0};
    header.crc = crc_of(header);
    return header;
}

}  // namespace

void SlotFile::refuse(const std::string& what, int error) const {
    std::string text = "tier file '" + path_ + "': " + what;
    if (error > 0) {
        const std::string known = platform::remedy_of_file(path_, error);
        text += std::string(": ") + std::strerror(error) + (known.empty() ? "" : "; ") + known;
    }
    throw Error(ErrorCode::tier, text, std::max(error, 0));
}

SlotFile::SlotFile(const Options& options)
    : path_(options.path),
      size_(options.size),
      chunk_bytes_(options.chunk_bytes),
      stride_(kTierBlock + in_blocks(block_bytes(options.chunk_bytes, kMaxParts))) {
    if (size_ < kTierBlock + stride_)
        refuse("of " + std::to_string(size_) + " bytes has no room for one chunk of " + std::to_string(chunk_bytes_) +
               "; it takes " + std::to_string(kTierBlock + stride_));
    slots_ = (size_ - kTierBlock) / stride_;
    try {
        open(options);
    } catch (...) {
        lock_.close();
        if (file_ != -1) ::close(file_);
        throw;
    }
}

void SlotFile::open(const Options& options) {
    constexpr int kFlags = O_RDWR | O_CLOEXEC | O_NONBLOCK;
    file_ = ::open(path_.c_str(), kFlags | O_CREAT | O_EXCL, 0600);
    const bool made = file_ != -1;
    if (!made && errno == EEXIST) file_ = ::open(path_.c_str(), kFlags);
    if (file_ == -1) refuse("cannot be opened", errno);
    reached(FaultPoint::tier_file_made);
    struct stat status{};
    if (fstat(file_, &status) != 0) refuse("cannot be looked at", errno);
    if (!S_ISREG(status.st_mode)) refuse("is no regular file");
    const int locked = platform::open_again(file_);
    if (locked == -1) refuse("cannot be opened a second time, for its lock", errno);
    lock_.adopt(locked, path_);
    if (!lock_.try_lock(kServerByte)) {
        FileHeader header{};
        const bool known = transfer(false, file_, &header, sizeof header, 0) == 0 && header.magic == kFileMagic &&
                           header.crc == crc_of(header);
        const std::uint32_t pid = known ? header.pid : 0;
        throw Error(ErrorCode::tier,
                    "tier file '" + path_ + "' is in use by " +
                        (pid != 0 ? "process " + std::to_string(pid) : std::string("another process")) +
                        ": end that first, or take another file",
                    pid != 0 ? std::optional(Peer{std::nullopt, pid}) : std::nullopt);
    }
    // Now that nobody else can be making it.
    if (fstat(file_, &status) != 0) refuse("cannot be looked at", errno);
    fresh_ = status.st_size == 0;  // or made by one that died before it had a header
    if (!fresh_) read_header(options);
    try {
        // The header first: whatever length the file has when this process dies, it can be told to be a tier's, and is made
        // longer by the next one.
        write_header(getpid());
        if (const int error =
                static_cast<std::uint64_t>(status.st_size) < size_ ? grow(file_, size_, preallocated_) : 0)
            refuse("cannot have " + std::to_string(size_) + " bytes", error);
        reached(FaultPoint::tier_grown);
    } catch (const Error&) {
        if (made) unlink(path_.c_str());
        if (fresh_ && !made) static_cast<void>(ftruncate(file_, 0) == 0);  // as it was
        throw;
    }
    direct_ = options.direct && set_direct(file_, true);
    if (direct_) {  // some file systems take the flag and refuse the reads
        const Blocks block = new_blocks(kTierBlock);
        if (block == nullptr || transfer(false, file_, block.get(), kTierBlock, 0) != 0)
            direct_ = !set_direct(file_, false);
    }
}

void SlotFile::read_header(const Options& options) {
    FileHeader header{};
    const int error = transfer(false, file_, &header, sizeof header, 0);
    if (error > 0) refuse("cannot be read", error);
    if (error == kEndOfFile || header.magic != kFileMagic)
        refuse("is not a tier's: it is left as it is; remove it, or take another path");
    if (header.byte_order != kByteOrder) refuse("was made by a machine of another byte order; remove it");
    if (header.version != kVersion)
        refuse("is of version " + std::to_string(header.version) + ", not " + std::to_string(kVersion) + "; remove it");
    if (header.crc != crc_of(header)) refuse("has a damaged header, so its era is not known; remove it");
    if (header.size != options.size || header.chunk_bytes != options.chunk_bytes)
        refuse("was made with " + std::to_string(header.size) + " bytes for chunks of " +
               std::to_string(header.chunk_bytes) + ", not " + std::to_string(options.size) + " for chunks of " +
               std::to_string(options.chunk_bytes) + "; give those, or remove it");
    era_ = header.era;
}

void SlotFile::write_header(pid_t owner) {
    FileHeader header{.magic = kFileMagic,
                      .byte_order = kByteOrder,
                      .version = kVersion,
                      .size = size_,
                      .chunk_bytes = chunk_bytes_,
                      .era = era_,
                      .pid = static_cast<std::uint32_t>(owner),
                      .crc = 0};
    header.crc = crc_of(header);
    const Blocks block = block_of(header);
    if (block == nullptr) throw std::bad_alloc();
    if (const int error = transfer(true, file_, block.get(), kTierBlock, 0))
        refuse("its header cannot be written", error);
    reached(FaultPoint::tier_header_written);
    if (const int unsynced = sync()) refuse("its header cannot be synced", unsynced);
}

void SlotFile::set_era(std::uint64_t era) {
    era_ = era;
    write_header(getpid());
}

int SlotFile::sync() noexcept {
#if defined(__APPLE__)
    return fcntl(file_, F_FULLFSYNC) != -1 ? 0 : errno;
#else
    return fdatasync(file_) == 0 ? 0 : errno;
#endif
}

void SlotFile::close() noexcept {
    if (file_ == -1) return;
    if (!in_forked_child()) {
        try {
            write_header(0);
        } catch (const std::exception&) {  // the era on disk is what it was, and the pid is only for messages
            sync();
        }
        lock_.close();
    }
    ::close(file_);
    file_ = -1;
}

std::vector<SlotFile::Record> SlotFile::records() const {
    std::vector<Record> found(slots_);
    if (fresh_) return found;
    const auto read = [this, &found](std::size_t first, std::size_t last) noexcept {
        const Blocks block = new_blocks(kTierBlock);
        for (std::size_t i = first; block != nullptr && i < last; ++i) {
            // What cannot be read is no chunk.
            if (transfer(false, file_, block.get(), kTierBlock, offset_of(i)) != 0) continue;
            SlotHeader header{};
            std::memcpy(&header, block.get(), sizeof header);
            const bool right = header.magic == kSlotMagic && header.crc == crc_of(header) && header.era == era_ &&
                               header.length != 0 && header.length <= block_bytes(chunk_bytes_, kMaxParts);
            if (right)
                found[i] = {header.key, header.length, header.era, header.sequence, header.note, header.bytes_crc};
        }
    };
    const std::size_t share = (slots_ + kIndexThreads - 1) / kIndexThreads;
    std::vector<std::thread> threads;
    threads.reserve(kIndexThreads);
    std::size_t first = share;
    try {
        for (; first < slots_; first += share)
            threads.push_back(
                start_without_signals([&read, first, last = std::min(first + share, slots_)] { read(first, last); }));
    } catch (const std::system_error&) {  // no more threads: this one reads what is left
        read(first, slots_);
    }
    read(0, std::min(share, slots_));
    for (std::thread& thread : threads) thread.join();
    return found;
}

int SlotFile::write(std::size_t slot, Record& record, std::span<const std::byte> chunk) noexcept {
    // A system call takes memory that it only reads as if it might write to it.
    const std::span<std::byte> bytes(const_cast<std::byte*>(chunk.data()), chunk.size());
    const std::span<std::byte> first = piece_of(bytes, 0);
    // The first piece is summed first, and written last, with the header, which has to have the sum of all.
    record.crc = checksum_of(first);
    for (std::size_t at = first.size(); at < bytes.size(); at += kPiece) {
        const std::span<std::byte> piece = piece_of(bytes, at);
        record.crc = checksum_of(piece, record.crc);
        if (const int error = move(true, slot, nullptr, piece, at)) return error;
    }
    const Blocks block = block_of(header_of(record));
    return block == nullptr ? ENOMEM : move(true, slot, block.get(), first, 0);
}

int SlotFile::erase(std::size_t slot) noexcept {
    const Blocks block = new_blocks(kTierBlock);
    if (block == nullptr) return ENOMEM;
    std::memset(block.get(), 0, kTierBlock);
    return transfer(true, file_, block.get(), kTierBlock, offset_of(slot));
}

SlotFile::Found SlotFile::read(std::size_t slot, const Record& record, std::span<std::byte> into) noexcept {
    const Blocks block = new_blocks(kTierBlock);
    if (block == nullptr) return {.error = ENOMEM};
    const SlotHeader expected = header_of(record);
    std::uint32_t crc = 0;
    for (std::size_t at = 0; at < into.size(); at += kPiece) {
        const std::span<std::byte> piece = piece_of(into, at);
        const int error = move(false, slot, at == 0 ? block.get() : nullptr, piece, at);
        if (error != 0) return {.error = std::max(error, 0)};
        if (at == 0 && std::memcmp(block.get(), &expected, sizeof expected) != 0) return {};
        crc = checksum_of(piece, crc);
    }
    return {.right = crc == record.crc};
}

int SlotFile::move(bool out, std::size_t slot, std::byte* header, std::span<std::byte> piece, std::size_t at) noexcept {
    const std::uint64_t offset = offset_of(slot) + (header == nullptr ? kTierBlock + at : 0);
    if (!direct_) return transfer_piece(out, file_, header, piece, piece.size(), offset);
    const std::size_t whole = piece.size() / kTierBlock * kTierBlock;
    const auto address = reinterpret_cast<std::uintptr_t>(piece.data());
    if (address % alignment_.load(std::memory_order_relaxed) == 0) {
        const int error = transfer_piece(out, file_, header, piece, whole, offset);
        if (error != EINVAL || address % kTierBlock == 0) return error;
        alignment_.store(kTierBlock, std::memory_order_relaxed);
    }
    if (at == 0) copied_.fetch_add(1, std::memory_order_relaxed);
    return transfer_piece(out, file_, header, piece, 0, offset);
}

}  // namespace ringcast::pool
