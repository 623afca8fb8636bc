// Which pages of the data part have memory: a bit for each, looked through a word at a time.
#pragma once

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdint>
#include <vector>

namespace ringcast {

class PageMap {
public:
    // The pages of [0, bytes), none of which has memory. `page` is a power of two.
    PageMap(std::uint64_t bytes, std::uint64_t page)
        : shift_(static_cast<std::uint32_t>(std::countr_zero(page))), pages_(page_from(bytes)) {
        assert(std::has_single_bit(page));
        words_.resize((pages_ + 63) / 64);
    }

    // Bytes with memory.
    std::uint64_t count() const noexcept { return present_ << shift_; }

    // Bytes without memory in the pages that [begin, end) touches.
    std::uint64_t missing(std::uint64_t begin, std::uint64_t end) const noexcept {
        if (begin >= end) return 0;
        const std::uint64_t first = begin >> shift_;
        const std::uint64_t limit = page_from(end);
        assert(limit <= pages_);
        std::uint64_t present = 0;
        for_each_word(first, limit, [&](std::uint64_t word, std::uint64_t mask) {
            present += static_cast<std::uint64_t>(std::popcount(words_[word] & mask));
        });
        return (limit - first - present) << shift_;
    }

    // Call f(run_begin, run_end) for each longest run of pages, of those that [begin, end) touches, that are all
    // without memory or all with it, lowest first, until it returns false. f may set or clear the run it is called for.
    template <class F>
    void for_each_missing(std::uint64_t begin, std::uint64_t end, F&& f) const {
        for_each_run(begin, end, 0, f);
    }
    template <class F>
    void for_each_present(std::uint64_t begin, std::uint64_t end, F&& f) const {
        for_each_run(begin, end, ~std::uint64_t{0}, f);
    }

    // The pages of [begin, end), whole pages, have memory from now on, or have none.
    void set(std::uint64_t begin, std::uint64_t end) noexcept {
        assert_whole_pages(begin, end);
        for_each_word(begin >> shift_, end >> shift_, [&](std::uint64_t word, std::uint64_t mask) {
            present_ += static_cast<std::uint64_t>(std::popcount(mask & ~words_[word]));
            words_[word] |= mask;
        });
    }
    void clear(std::uint64_t begin, std::uint64_t end) noexcept {
        assert_whole_pages(begin, end);
        for_each_word(begin >> shift_, end >> shift_, [&](std::uint64_t word, std::uint64_t mask) {
            present_ -= static_cast<std::uint64_t>(std::popcount(mask & words_[word]));
            words_[word] &= ~mask;
        });
    }

private:
    // The first page that begins at `offset` or behind it.
    std::uint64_t page_from(std::uint64_t offset) const noexcept {
        return (offset + (std::uint64_t{1} << shift_) - 1) >> shift_;
    }

    void assert_whole_pages([[maybe_unused]] std::uint64_t begin, [[maybe_unused]] std::uint64_t end) const noexcept {
        assert(begin >> shift_ << shift_ == begin && end >> shift_ << shift_ == end && end >> shift_ <= pages_);
    }

    // Calls f(word, mask) for the words with a bit of [first, limit), the mask saying which bits these are.
    template <class F>
    static void for_each_word(std::uint64_t first, std::uint64_t limit, F&& f) {
        while (first < limit) {
            const std::uint64_t next = std::min(limit, (first | 63) + 1);
            f(first / 64, (~std::uint64_t{0} >> (64 - (next - first))) << first % 64);
            first = next;
        }
    }

    template <class F>
    void for_each_run(std::uint64_t begin, std::uint64_t end, std::uint64_t wanted, F& f) const {
        if (begin >= end) return;
        const std::uint64_t limit = page_from(end);
        assert(limit <= pages_);
        std::uint64_t at = find(begin >> shift_, limit, wanted);
        while (at < limit) {
            const std::uint64_t behind = find(at, limit, ~wanted);
            if (!f(at << shift_, behind << shift_)) return;
            at = find(behind, limit, wanted);
        }
    }

    // The first page of [at, limit) whose bit is as in `wanted`, all ones or all zeros; or `limit`.
    std::uint64_t find(std::uint64_t at, std::uint64_t limit, std::uint64_t wanted) const noexcept {
        while (at < limit) {
            const std::uint64_t found = ~(words_[at / 64] ^ wanted) >> at % 64;
            if (found != 0) return std::min(limit, at + static_cast<std::uint64_t>(std::countr_zero(found)));
            at = (at | 63) + 1;
        }
        return limit;
    }

    std::uint32_t shift_;
    std::uint64_t pages_;
    std::uint64_t present_ = 0;
    std::vector<std::uint64_t> words_;
};

}  // namespace ringcast
