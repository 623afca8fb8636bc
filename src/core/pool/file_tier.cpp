#include "pool/file_tier.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "fault_points.hpp"
#include "platform/clock.hpp"
#include "platform/refusals.hpp"
#include "pool/parts.hpp"

namespace ringcast::pool {

namespace {

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

FileTier::FileTier(const Options& options) : file_(options), era_(file_.era()) {
    const std::int64_t began = platform::monotonic_ns();
    const std::vector<SlotFile::Record> records = file_.records();
    slots_.resize(records.size());
    index_.reserve(records.size());
    free_.reserve(records.size());
    for (std::size_t i = 0; i < records.size(); ++i) {
        if (records[i].length == 0) continue;
        slots_[i] = {.record = records[i], .state = State::present};
        sequence_ = std::max(sequence_, records[i].sequence);
        const auto [found, is_new] = index_.try_emplace(records[i].key, i);
        if (is_new) continue;
        // Twice there, since its slot was given up and not yet written over: the later one counts.
        const bool later = records[i].sequence > records[found->second].sequence;
        const std::size_t earlier = later ? std::exchange(found->second, i) : i;
        slots_[earlier].state = State::free;
        erase(earlier);
    }
    for (std::size_t i = slots_.size(); i-- != 0;)
        if (slots_[i].state == State::free) free_.push_back(i);
    indexed_in_ns_ = static_cast<std::uint64_t>(platform::monotonic_ns() - began);
}

FileTier::~FileTier() { close(); }

void FileTier::close() noexcept {
    if (!in_forked_child()) {
        std::unique_lock lock(mutex_);
        if (closed_) return;
        closed_ = true;
        changed_.wait(lock, [this] { return calls_ == 0; });
        erase_stale(lock);
    }
    file_.close();
}

TierOutcome FileTier::failed(const char* what, int error) noexcept {
    count(failed_);
    try {
        const std::string known = platform::remedy_of_file(file_.path(), error);
        std::string text = what + std::string(": ") + std::strerror(error) + (known.empty() ? "" : "; ") + known;
        const std::lock_guard guard(mutex_);
        last_error_ = std::move(text);
    } catch (const std::bad_alloc&) {  // then there is no text
    }
    return TierOutcome::failed;
}

std::uint64_t FileTier::most_bytes(std::uint32_t parts) const noexcept {
    return block_bytes(file_.chunk_bytes(), parts);
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
        index_.erase(slot.record.key);
        count(evicted_);
        return at;
    }
    return slots_.size();
}

void FileTier::give_back(std::size_t at) noexcept {
    slots_[at].state = State::free;
    free_.push_back(at);  // which has room for all
}

void FileTier::drop(Call& call, std::size_t at) noexcept {
    Slot& slot = slots_[at];
    index_.erase(slot.record.key);
    slot.state = State::writing;
    changed_.wait(call.lock, [&slot] { return slot.readers == 0; });
    call.lock.unlock();
    erase(at);
    call.lock.lock();
    give_back(at);
}

TierOutcome FileTier::store(const Digest& key, std::span<const std::byte> bytes, const TierNote& note) noexcept {
    count(stores_);
    if (bytes.empty() || bytes.size() > most_bytes(note.parts)) {
        count(refused_);
        return TierOutcome::refused;
    }
    const Stopwatch watch(store_ns_);
    int error = 0;
    {
        Call call(*this);
        if (!call.usable || broken_) {
            count(refused_);
            return TierOutcome::refused;
        }
        for (auto found = index_.find(key); found != index_.end(); found = index_.find(key)) {
            Slot& there = slots_[found->second];
            if (there.state == State::present && there.record.length == bytes.size()) {
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
        const std::size_t at = claim();
        if (at == slots_.size()) {
            count(refused_);
            return TierOutcome::refused;
        }
        Slot& slot = slots_[at];
        slot = {.record = {.key = key, .length = bytes.size(), .era = era(), .sequence = ++sequence_, .note = note},
                .state = State::writing,
                .stale = slot.stale};
        try {
            index_.emplace(key, at);
        } catch (const std::bad_alloc&) {
            give_back(at);
            count(refused_);
            return TierOutcome::refused;
        }
        SlotFile::Record record = slot.record;
        call.lock.unlock();
        reached(FaultPoint::tier_claimed);

        error = file_.write(at, record, bytes);
        reached(FaultPoint::tier_written);
        if (error != 0) erase(at);  // or who lay there before is found again one day, after it was removed elsewhere

        call.lock.lock();
        if (error == 0) slot.stale = false;
        if (error == 0 && era() == record.era) {
            slot.record.crc = record.crc;
            slot.state = State::present;
            count(stored_);
            count(stored_bytes_, bytes.size());
            return TierOutcome::done;
        }
        // Nothing lies there, or what is of an older era.
        if (const auto found = index_.find(key); found != index_.end() && found->second == at) index_.erase(found);
        give_back(at);
    }
    if (error != 0) return failed("a chunk could not be written", error);
    count(refused_);
    return TierOutcome::refused;
}

TierOutcome FileTier::load(const Digest& key, std::span<std::byte> into) noexcept {
    count(loads_);
    const Stopwatch watch(load_ns_);
    SlotFile::Found read;
    {
        Call call(*this);
        const auto found = call.usable ? index_.find(key) : index_.end();
        if (found == index_.end()) return TierOutcome::absent;
        const std::size_t at = found->second;
        Slot& slot = slots_[at];
        if (slot.state != State::present || slot.record.length != into.size()) return TierOutcome::absent;
        ++slot.readers;
        const SlotFile::Record record = slot.record;
        call.lock.unlock();

        read = file_.read(at, record, into);

        call.lock.lock();
        --slot.readers;
        changed_.notify_all();
        if (era() != record.era) {  // cleared meanwhile; the last of its readers gives the slot back
            if (slot.state == State::dropping && slot.readers == 0) give_back(at);
            return TierOutcome::absent;
        }
        if (read.right) {
            slot.used = true;
            count(hits_);
            count(loaded_bytes_, into.size());
            return TierOutcome::done;
        }
        if (read.error == 0) {
            count(corrupt_);
            if (slot.state == State::present && slot.record.sequence == record.sequence) drop(call, at);
            return TierOutcome::corrupt;
        }
    }
    return failed("a chunk could not be read", read.error);
}

int FileTier::erase(std::size_t slot) noexcept {
    reached(FaultPoint::tier_erase_begin);
    const int error = file_.erase(slot);
    reached(FaultPoint::tier_erased);
    {
        const std::lock_guard guard(mutex_);
        slots_[slot].stale = error != 0;
    }
    if (error != 0) failed("a chunk could not be erased", error);
    return error;
}

int FileTier::erase_stale(std::unique_lock<std::mutex>& lock) noexcept {
    int error = 0;
    for (std::size_t at = 0; at < slots_.size(); ++at) {
        Slot& slot = slots_[at];
        // Who writes there may write over it.
        changed_.wait(lock, [&slot] { return !slot.stale || slot.state != State::writing; });
        if (!slot.stale) continue;
        std::erase(free_, at);
        slot.state = State::writing;
        lock.unlock();
        const int failure = erase(at);
        lock.lock();
        if (failure != 0) error = failure;
        give_back(at);
        changed_.notify_all();
    }
    return error;
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
    drop(call, found->second);
    return TierOutcome::done;
}

void FileTier::clear(std::uint64_t era) {
    const std::lock_guard one_at_a_time(header_);
    Call call(*this);
    if (!call.usable) file_.refuse("is closed");
    if (era < this->era())
        file_.refuse("its era is " + std::to_string(this->era()) + " and never goes back to " + std::to_string(era));
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
    reached(FaultPoint::tier_era_raised);
    file_.set_era(era);
    call.lock.lock();
    broken_ = false;
    for (Slot& slot : slots_) slot.stale = false;  // of an older era
}

TierOutcome FileTier::sync() noexcept {
    int error = 0;
    {
        Call call(*this);
        if (!call.usable) return TierOutcome::refused;
        if (erase_stale(call.lock) != 0) return TierOutcome::failed;  // which has been told
        call.lock.unlock();
        error = file_.sync();
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
            .copied = file_.copied()};
}

std::vector<FileTier::Content> FileTier::contents() const {
    std::vector<Content> all;
    {
        const std::lock_guard guard(mutex_);
        all.reserve(index_.size());
        for (const auto& [key, at] : index_)
            if (slots_[at].state == State::present) all.push_back(slots_[at].record);
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
