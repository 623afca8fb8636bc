#include "private_data.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "platform/private_pages.hpp"
#include "platform/shared_file.hpp"

namespace ringcast {

void PrivateData::Free::operator()(Word* words) const noexcept { std::free(words); }

PrivateData::PrivateData(std::byte* mapping, std::uint64_t data_offset, std::uint64_t data_bytes)
    : mapping_(mapping),
      data_offset_(data_offset),
      data_bytes_(data_bytes),
      page_(platform::page_bytes()),
      pages_(data_bytes / page_),
      // Not touched before it is needed: a bit for each page of an address space that may be large.
      left_(static_cast<Word*>(std::calloc(pages_ / 64 + 1, sizeof(Word)))) {
    if (left_ == nullptr) throw std::bad_alloc();
}

PrivateData::~PrivateData() { platform::unmap(mapping_, data_offset_ + data_bytes_); }

// Where all memory is locked (mlockall), the kernel makes its own copy of every page of the mapping, which then shows
// what the file was at that time. The control part, which nobody writes to through this mapping, tells: `head` stands
// still there.
bool PrivateData::shows_the_file(std::uint64_t position) const noexcept {
    const auto* control = reinterpret_cast<const NativeControl*>(mapping_ + kControlOffset);
    return control->head.load(std::memory_order_relaxed) > position;
}

std::byte* PrivateData::open(std::uint64_t offset, std::uint64_t bytes, std::uint64_t position) noexcept {
    if (!usable_.load(std::memory_order_relaxed) || !shows_the_file(position)) return nullptr;
    std::uint64_t first = offset / page_;
    std::uint64_t behind = std::min((offset + bytes + page_ - 1) / page_, pages_);
    if (any_left(first, behind)) {
        const std::uint64_t least = first - std::min(first, kNeighbours);
        const std::uint64_t most = std::min(pages_, behind + kNeighbours);
        while (first > least && is_left(first - 1)) --first;
        while (behind < most && is_left(behind)) ++behind;
        if (!forget(first, behind)) return nullptr;
    }
    if (unasked_.load(std::memory_order_relaxed) > kMostUnasked && !forget_all()) return nullptr;
    return mapping_ + data_offset_ + offset;
}

// What another process writes here (process_vm_writev) is no fault of this one; but what is read-only it is not asked to.
bool PrivateData::nothing_was_written_since(std::uint64_t faults) noexcept {
    const auto now = platform::page_faults();
    if (!now) return false;
    faults_.store(*now, std::memory_order_relaxed);  // any older number only makes the next one ask
    return *now == faults;
}

void PrivateData::close(std::uint64_t offset, std::uint64_t bytes, bool writable, std::uint64_t faults) noexcept {
    const std::uint64_t first = offset / page_;
    const std::uint64_t behind = std::min((offset + bytes + page_ - 1) / page_, pages_);
    if (writable) {
        if (!platform::discard_written(mapping_ + data_offset_ + first * page_, (behind - first) * page_))
            usable_.store(false, std::memory_order_relaxed);
        return;
    }
    if (nothing_was_written_since(faults)) return;
    for (std::uint64_t page = first; page < behind;) {
        const std::uint64_t next = std::min(behind, (page | 63) + 1);
        left_[page / 64].fetch_or((~std::uint64_t{0} >> (64 - (next - page))) << page % 64, std::memory_order_relaxed);
        page = next;
    }
    unasked_.fetch_add(bytes, std::memory_order_relaxed);
}

bool PrivateData::any_left(std::uint64_t first, std::uint64_t behind) const noexcept {
    for (std::uint64_t page = first; page < behind;) {
        const std::uint64_t next = std::min(behind, (page | 63) + 1);
        if ((left_[page / 64].load(std::memory_order_relaxed) & (~std::uint64_t{0} >> (64 - (next - page)))
                                                                    << page % 64) != 0)
            return true;
        page = next;
    }
    return false;
}

bool PrivateData::forget(std::uint64_t first, std::uint64_t behind) noexcept {
    if (!platform::discard_written(mapping_ + data_offset_ + first * page_, (behind - first) * page_)) {
        usable_.store(false, std::memory_order_relaxed);
        return false;
    }
    for (std::uint64_t page = first; page < behind;) {
        const std::uint64_t next = std::min(behind, (page | 63) + 1);
        left_[page / 64].fetch_and(~((~std::uint64_t{0} >> (64 - (next - page))) << page % 64),
                                   std::memory_order_relaxed);
        page = next;
    }
    return true;
}

bool PrivateData::forget_all() noexcept {
    unasked_.store(0, std::memory_order_relaxed);
    for (std::uint64_t page = 0; page < pages_;) {
        if (left_[page / 64].load(std::memory_order_relaxed) == 0) {
            page = (page | 63) + 1;
            continue;
        }
        std::uint64_t behind = page;
        while (behind < pages_ && is_left(behind)) ++behind;
        if (behind > page && !forget(page, behind)) return false;
        page = behind + 1;
    }
    return true;
}

}  // namespace ringcast
