#include "arena.hpp"

#include <algorithm>

namespace ringcast {

Arena::Arena(Segment& segment)
    : segment_(segment),
      ring_(segment.ring()),
      budget_(segment.geometry().data_budget),
      page_(platform::page_bytes()),
      allocator_(segment.geometry().data_bytes, page_),
      pages_(segment.geometry().data_bytes, page_) {
    rows_.reserve(segment.geometry().max_leases);
    held_.reserve(segment.geometry().max_leases);
    for (std::uint32_t row = segment.geometry().max_leases; row > 0; --row) rows_.push_back(row - 1);
}

bool Arena::place(std::uint64_t bytes, Place& place) {
    const auto refuse = [this](Refusal why) {
        refusal_ = why;
        return false;
    };
    if (rows_.empty()) return refuse(Refusal::rows);
    const auto block = allocator_.allocate(bytes);
    if (!block) return refuse(Refusal::fragments);
    const std::uint64_t live = allocator_.used_bytes() - block->size;
    bool committed = false;
    try {
        committed = commit(block->offset, block->offset + bytes);
    } catch (...) {  // not for want of memory
        allocator_.free(block->node);
        throw;
    }
    if (!committed) {
        const bool machine_full = refusal_ == Refusal::machine;
        const std::uint64_t missing = pages_.missing(block->offset, block->offset + bytes);
        allocator_.free(block->node);
        if (!machine_full) return refuse(live + bytes > budget_ ? Refusal::memory : Refusal::fragments);
        if (live == 0) throw_capacity("sending a message of " + std::to_string(bytes) + " bytes", missing);
        return refuse(Refusal::machine);
    }
    place = Place{block->offset, block->node, rows_.back()};
    rows_.pop_back();
    peak_ = std::max(peak_, allocator_.used_bytes());
    refusal_ = Refusal::none;
    return true;
}

void Arena::publish(const Place& place, std::uint64_t position, std::uint64_t loan) {
    unread_.push_back(Block{position, loan, place.node, place.row, 0});
    count_use();
}

void Arena::abandon(const Place& place, std::uint64_t loan) noexcept {
    held_.push_back(Block{kAbandoned, loan, place.node, place.row, ring_.n_seats});
    count_use();
}

bool Arena::is_held_by(const Block& block, std::uint32_t column) const noexcept {
    if (column == ring_.n_seats) return block.loan != 0 && !is_marked(ring_, column, block.row, block.loan);
    return block.position != kAbandoned && may_read(ring_, column, block.row, block.position);
}

std::uint64_t Arena::loaned_blocks() const noexcept {
    const auto is_loaned = [this](const Block& block) { return is_held_by(block, ring_.n_seats); };
    return static_cast<std::uint64_t>(std::count_if(unread_.begin(), unread_.end(), is_loaned) +
                                      std::count_if(held_.begin(), held_.end(), is_loaned));
}

bool Arena::is_held(Block& block, bool ask_kernel) const {
    const auto holds = [&](std::uint32_t column) {
        return is_held_by(block, column) &&
               (!ask_kernel || column == ring_.n_seats || segment_.locks().is_held_by_another(seat_lock(column)));
    };
    if (holds(block.holder)) return true;
    const std::uint32_t holder = first_holder(ring_, holds);
    if (holder > ring_.n_seats) return false;
    block.holder = holder;
    return true;
}

void Arena::reclaim(std::uint64_t gate, Look look) {
    const bool ask_kernel = look == Look::asking;
    const std::size_t blocks = allocator_.blocks();
    while (!unread_.empty() && unread_.front().position < gate) {
        Block block = unread_.front();
        const bool held = is_held(block, ask_kernel);  // may throw: the block is kept track of until it is known
        unread_.pop_front();
        if (held)
            held_.push_back(block);
        else
            free(block.node, block.row);
    }
    std::size_t looks = look == Look::hurried ? std::min(kHurriedLook, held_.size()) : held_.size();
    while (looks-- > 0) {
        if (next_held_ >= held_.size()) next_held_ = 0;
        Block& block = held_[next_held_];
        if (is_held(block, ask_kernel)) {
            ++next_held_;
            continue;
        }
        free(block.node, block.row);
        block = held_.back();
        held_.pop_back();
    }
    if (allocator_.blocks() != blocks) count_use();
}

// Memory for the pages of [begin, end).
bool Arena::commit(std::uint64_t begin, std::uint64_t end) {
    refusal_ = Refusal::memory;
    const std::uint64_t missing = pages_.missing(begin, end);
    if (missing == 0) return true;
    if (missing > budget_) return false;
    if (pages_.count() + missing > budget_) shrink(budget_ - missing);
    if (pages_.count() + missing > budget_) return false;
    // Small blocks are the more likely to be followed by others: they get memory for those, too.
    if (end - begin < kGrowthBytes) {
        const std::uint64_t generous = std::min(round_up(end, kGrowthBytes), allocator_.capacity());
        const std::uint64_t first = begin / page_ * page_;
        if (pages_.missing(first, generous) == generous - first && pages_.count() + generous - first <= budget_ &&
            reserve(first, generous))
            return true;
    }
    bool done = true;
    for (int attempt = 0; attempt < 2; ++attempt) {
        done = true;
        pages_.for_each_missing(begin, end,
                                [&](std::uint64_t from, std::uint64_t to) { return done = reserve(from, to); });
        if (done || attempt == 1) break;
        shrink(0);  // the machine is short of memory: what is free here may do
    }
    if (!done) refusal_ = Refusal::machine;
    return done;
}

bool Arena::reserve(std::uint64_t begin, std::uint64_t end) {
    if (!segment_.reserve_data(begin, end)) return false;
    pages_.set(begin, end);
    return true;
}

void Arena::shrink(std::uint64_t memory) {
    if (pages_.count() <= memory) return;
    allocator_.for_each_free_from_top([&](std::uint64_t offset, std::uint64_t size) {
        const std::uint64_t begin = round_up(offset, page_);
        const std::uint64_t end = (offset + size) / page_ * page_;
        if (begin >= end) return true;
        bool able = true;
        pages_.for_each_present(begin, end, [&](std::uint64_t from, std::uint64_t to) {
            to = std::min(to, from + round_up(pages_.count() - memory, page_));
            able = segment_.release_data(from, to);
            if (able) pages_.clear(from, to);
            return able && pages_.count() > memory;
        });
        return able && pages_.count() > memory;
    });
}

void Arena::end_window() noexcept {
    idle_beyond_ = std::max(peak_, last_peak_) + kIdleBytes;
    last_peak_ = peak_;
    peak_ = allocator_.used_bytes();
}

bool Arena::give_back_piece() {
    const std::uint64_t before = pages_.count();
    const std::uint64_t needed = std::max(idle_beyond_, peak_ + kIdleBytes);  // it may have grown since
    if (before <= needed) return false;
    shrink(std::max(needed, before - std::min(before, kPieceBytes)));
    able_to_shrink_ = pages_.count() < before;
    return able_to_shrink_;
}

void Arena::free(std::uint32_t node, std::uint32_t row) noexcept {
    reached(FaultPoint::block_free_begin);
    allocator_.free(node);
    rows_.push_back(row);
    ++frees_;
}

void Arena::count_use() noexcept {
    ring_.control->blocks_in_use.store(allocator_.blocks(), std::memory_order_relaxed);
    ring_.control->block_bytes_in_use.store(allocator_.used_bytes(), std::memory_order_relaxed);
}

std::string Arena::explain_refusal(std::uint64_t bytes) const {
    const std::string used = in_units(used_bytes()) + " of " + in_units(budget_) + " are in use";
    switch (refusal_) {
        case Refusal::none:
            return "";
        case Refusal::rows:
            return "all " + std::to_string(segment_.geometry().max_leases) +
                   " leases (max_leases) are taken by messages that are unread or still viewed";
        case Refusal::memory:
            return "a message of " + in_units(bytes) + " does not fit the memory budget (max_bytes) now: " + used;
        case Refusal::fragments:
            return "a message of " + in_units(bytes) +
                   " fits the memory budget, but not a piece of what is free: " + used + ", in " +
                   std::to_string(blocks()) + " blocks that lie scattered";
        case Refusal::machine:
            return "a message of " + in_units(bytes) + " finds no memory in " + platform::place() + ": " +
                   in_units(memory()) + " of the budget of " + in_units(budget_) + " could be had, and " + used;
    }
    return "";
}

}  // namespace ringcast
