#include "selection.hpp"

#include <algorithm>
#include <exception>
#include <utility>

#include "threads.hpp"

namespace ringcast {

namespace {
constexpr std::size_t kGroup = platform::kMostFutexes - 1;  // beside the sleeper's own word
}

// Sleeps for one group of sources. Its own word is armed while it watches; else it rests, or looks what has changed.
struct Selection::Helper {
    static constexpr std::uint32_t kRests = 0;
    static constexpr std::uint32_t kLooksAgain = 1;

    Native::futex_word state{kRests};
    std::atomic<std::uint32_t> fired{platform::kWhichever};  // of the roster's words: a hint for who is roused
    std::shared_ptr<const Roster> roster;                    // with the mutex held
    std::thread thread;

    void set(std::uint32_t to) noexcept {
        state.store(to, std::memory_order_release);  // release [helper]
        Native::futex_wake_all(state);
    }
};

// How a selection sleeps; the lock is of its mutex.
struct Selection::Bed {
    static constexpr std::int64_t kGraceNs = 20'000'000;  // as in `park`

    Selection& s;
    std::unique_lock<std::mutex>& lock;

    template <class Ready>
    ParkResult park(std::int64_t most_ns, Ready&&) {
        if (arm<Native>(s.sources_)) return ParkResult::ready;
        s.send_helpers_to_sleep();
        const auto [result, one_has_fired] = sleep(most_ns);
        if (one_has_fired || find_fired(s.sources_)) return ParkResult::woken;
        if (result == platform::FutexResult::interrupted) return ParkResult::interrupted;
        if (result == platform::FutexResult::woken) return ParkResult::woken;
        if (!missed()) return ParkResult::timed_out;
        sleep(kGraceNs);
        if (find_fired(s.sources_)) return ParkResult::woken;
        const bool lost = missed();
        for (Source& source : s.sources_) source.armed = false;
        return lost ? ParkResult::rescued : ParkResult::woken;
    }
    std::int64_t woken_at() const noexcept {
        std::int64_t last = 0;
        for (const Source& source : s.sources_)
            if (!source.armed) last = std::max(last, source.word->woken_at.load(std::memory_order_relaxed));
        return last;
    }

private:
    struct Slept {
        platform::FutexResult result;
        bool one_has_fired;  // and is hot: there may be others, at which nobody has looked
    };
    Slept sleep(std::int64_t most_ns) {
        const std::shared_ptr<const Roster> roster = s.roster_;
        lock.unlock();
        const auto waited = Native::futex_wait_any(roster->words.data(),
                                                   static_cast<std::uint32_t>(roster->words.size()), kSelects, most_ns);
        lock.lock();
        bool one = has_fired_as_told(*roster, 0, waited.word);
        if (has_fired(s.sources_[0]))  // roused, maybe by a helper
            for (std::size_t n = 0; n < s.helpers_.size() && !one; ++n) {
                const Helper& helper = *s.helpers_[n];
                one = has_fired_as_told(*helper.roster, n + 1, helper.fired.load(std::memory_order_relaxed));
            }
        return {waited.result, one};
    }
    // Of a group's words; its ends may be others by now, and the hint an old one.
    bool has_fired_as_told(const Roster& roster, std::size_t group, std::uint32_t word) noexcept {
        const std::size_t i = group * kGroup + word;
        return word != 0 && word < roster.words.size() && i < s.sources_.size() &&
               roster.words[word] == &s.sources_[i].word->word && has_fired(s.sources_[i]);
    }
    bool missed() const noexcept {
        return std::any_of(s.sources_.begin(), s.sources_.end(),
                           [](const Source& source) { return source.armed && source.something(); });
    }
};

Selection::Selection(const Strategy& strategy) : waiter_(strategy, counters_) {
    Source own;
    own.word = &own_;
    own.roused = &roused_;
    sources_.push_back(std::move(own));
}

Selection::~Selection() {
    if (in_forked_child()) {  // the threads are the parent's
        for (const auto& helper : helpers_) helper->thread.detach();
        if (notifier_.joinable()) notifier_.detach();
        return;
    }
    for (const Source& source : sources_)
        if (source.hold != nullptr) source.hold->leave_selection();
    ends_.store(true, std::memory_order_relaxed);
    for (const auto& helper : helpers_) helper->set(Helper::kLooksAgain);
    for (const auto& helper : helpers_) helper->thread.join();
    if (!notifier_.joinable()) return;
    goes_on_.store(1, std::memory_order_relaxed);
    Native::futex_wake_all(goes_on_);
    rouse();
    notifier_.join();
}

bool Selection::Source::readable() const noexcept {
    const RingView<Native>& ring = hold->segment().ring();
    // relaxed: whoever reads the end is of this process; an older cursor is that of a message that was there.
    const std::uint64_t next = ring.seats[hold->seat()].cursor.load(std::memory_order_relaxed);
    if (next != position) {
        const std::uint64_t ahead = index + (next - position);
        index = static_cast<std::uint32_t>(ahead < ring.depth ? ahead : next % ring.depth);
        position = next;
    }
    return ring.slot(index).sequence.load(std::memory_order_acquire) == next + 1;  // acquire [publish]
}

bool Selection::Source::something() const noexcept {
    if (roused != nullptr) return roused->load(std::memory_order_relaxed);
    const RingView<Native>& ring = hold->segment().ring();
    return readable() || writer_died || left_over->load(std::memory_order_relaxed) != 0 ||
           ring.control->closed.load(std::memory_order_relaxed) != 0 ||
           ring.seats[hold->seat()].state.load(std::memory_order_relaxed) != seated;
}

Selection::Access Selection::access(bool waiting) {
    Access access(mutex_, std::try_to_lock);
    if (access.owns_lock()) return access;
    rouse();  // who is awake for a wait keeps the mutex
    if (waiting) access.lock();
    return access;
}

void Selection::change_rosters() noexcept {
    changed_ = true;
    if (waits_ || notifier_.joinable()) rouse();  // who sleeps does so on the old one
}

bool Selection::add(const Access&, void* key, const std::shared_ptr<SeatHold>& hold,
                    std::shared_ptr<const std::atomic<std::uint64_t>> left_over) {
    if (!hold->enter_selection()) return false;
    const RingView<Native>& ring = hold->segment().ring();
    NativeSeat& seat = ring.seats[hold->seat()];
    Source source;
    source.key = key;
    source.hold = hold;
    source.word = &seat.parked;
    source.left_over = std::move(left_over);
    source.seated = seat_word(seat_incarnation(seat.state.load(std::memory_order_relaxed)), SeatState::active);
    source.position = seat.cursor.load(std::memory_order_relaxed);
    source.index = static_cast<std::uint32_t>(source.position % ring.depth);
    try {
        sources_.push_back(std::move(source));
    } catch (...) {
        hold->leave_selection();
        throw;
    }
    change_rosters();
    return true;
}

// The last one takes the place, so that the rosters of the groups between them stay as they are.
void Selection::remove(const Access&, void* key) {
    const auto found =
        std::find_if(sources_.begin() + 1, sources_.end(), [&](const Source& source) { return source.key == key; });
    if (found == sources_.end()) return;
    found->hold->leave_selection();
    if (found + 1 != sources_.end()) *found = std::move(sources_.back());
    sources_.pop_back();
    change_rosters();
}

void Selection::rouse() noexcept { ringcast::rouse<Native>(roused_, own_); }

void Selection::begin() noexcept {
    waiter_.begin();
    idle_ = false;
    const std::lock_guard guard(mutex_);
    is_fresh_ = true;
    look_at_lives();
}

bool Selection::briefly() noexcept {
    const std::lock_guard guard(mutex_);
    return !waits_for_none() && waiter_.briefly([this] { return something(); });
}

bool Selection::slice(std::int64_t until_ns) {
    std::unique_lock lock(mutex_);
    if (changed_) refresh_rosters();
    Bed bed{*this, lock};
    waits_ = true;
    idle_ = waits_for_none();
    if (idle_)  // nothing that is worth to stay awake for
        bed.park(std::clamp<std::int64_t>(until_ns - platform::monotonic_ns(), 0, kSliceNs), [] {});
    else
        waiter_.slice(bed, until_ns, [this] { return look(); });
    waits_ = false;
    was_roused_ = roused_.exchange(false, std::memory_order_relaxed);
    look_at_lives();
    return something();
}

bool Selection::look() noexcept { return roused_.load(std::memory_order_relaxed) || something(); }

// A word that has fired says that something was there; whether it still is, the source says.
bool Selection::something() noexcept { return something_hot() || (find_fired(sources_) && something_hot()); }

bool Selection::something_hot() const noexcept {
    return std::any_of(sources_.begin() + 1, sources_.end(),
                       [](const Source& source) { return !source.armed && source.something(); });
}

std::vector<void*> Selection::hot_keys() {
    std::vector<void*> keys;
    const std::size_t ends = sources_.size() - 1;
    const auto add = [&](std::size_t from, std::size_t to) {
        for (std::size_t i = from; i < to; ++i)
            if (const Source& source = sources_[1 + i]; !source.armed && source.something()) keys.push_back(source.key);
    };
    const std::size_t first = ends == 0 ? 0 : first_++ % ends;
    add(first, ends);
    add(0, first);
    return keys;
}

std::vector<void*> Selection::collect() {
    const std::lock_guard guard(mutex_);
    const bool fresh = std::exchange(is_fresh_, false);
    if (fresh) find_fired(sources_);
    std::vector<void*> keys = hot_keys();
    if (!fresh && keys.empty() && find_fired(sources_)) keys = hot_keys();
    if (!notified_ || !keys.empty()) return keys;
    arm<Native>(sources_);
    if (!something()) {
        event_->clear();
        notified_ = false;
        goes_on_.store(1, std::memory_order_relaxed);
        Native::futex_wake_all(goes_on_);
    }
    return keys;
}

// A system call for each end, so now and then.
void Selection::look_at_lives() {
    constexpr std::int64_t kEveryNs = 500'000'000;
    const std::int64_t now = platform::monotonic_ns();
    if (now < lives_due_ns_) return;
    lives_due_ns_ = now + kEveryNs;
    for (Source& source : sources_) {
        if (source.hold == nullptr || source.writer_died) continue;
        try {
            source.writer_died = !source.hold->segment().creator_alive();
        } catch (const Error&) {  // the kernel does not say now: the next look asks again
        }
        if (source.writer_died) source.armed = false;
    }
}

void Selection::refresh_rosters() {
    // True if it is another one now. While a roster lives, a word is nobody else's.
    const auto renew = [&](std::shared_ptr<const Roster>& roster, std::size_t from, Native::futex_word& own) {
        const auto end = [&](std::size_t i) {
            return sources_.begin() + static_cast<std::ptrdiff_t>(std::min(i, sources_.size()));
        };
        const auto first = end(from), last = end(from + kGroup);
        const auto is_its = [](const Native::futex_word* word, const Source& source) {
            return word == &source.word->word;
        };
        if (roster != nullptr && std::equal(roster->words.begin() + 1, roster->words.end(), first, last, is_its))
            return false;
        auto made = std::make_shared<Roster>();
        made->words.push_back(&own);
        for (auto source = first; source != last; ++source) {
            made->words.push_back(&source->word->word);
            made->holds.push_back(source->hold);
        }
        roster = std::move(made);
        return true;
    };
    renew(roster_, 1, own_.word);
    std::size_t n = 0;
    for (std::size_t from = 1 + kGroup; from < sources_.size() || n < helpers_.size(); from += kGroup, ++n) {
        if (n == helpers_.size()) {
            auto helper = std::make_unique<Helper>();
            helper->thread = start_without_signals([this, h = helper.get()] { help(*h); });
            helpers_.push_back(std::move(helper));
        }
        Helper& helper = *helpers_[n];
        if (renew(helper.roster, from, helper.state)) helper.set(Helper::kLooksAgain);
    }
    changed_ = false;
}

// All words are armed.
void Selection::send_helpers_to_sleep() noexcept {
    for (const auto& helper : helpers_)
        if (helper->roster->words.size() > 1 && helper->state.load(std::memory_order_relaxed) != kSelects)
            helper->set(kSelects);
}

void Selection::help(Helper& helper) {
    while (!ends_.load(std::memory_order_relaxed)) {
        const std::uint32_t state = helper.state.load(std::memory_order_acquire);  // acquire [helper]
        if (state != kSelects) {
            Native::futex_wait(helper.state, state, kSliceNs);
            continue;
        }
        std::shared_ptr<const Roster> roster;
        {
            const std::lock_guard guard(mutex_);
            roster = helper.roster;
        }
        const auto& words = roster->words;
        const auto is_fired = [](const auto* word) { return word->load(std::memory_order_relaxed) != kSelects; };
        const std::uint32_t word =
            Native::futex_wait_any(words.data(), static_cast<std::uint32_t>(words.size()), kSelects, kSliceNs).word;
        const bool known = word != 0 && word < words.size() && is_fired(words[word]);
        if (!known && std::none_of(words.begin() + 1, words.end(), is_fired)) continue;
        helper.fired.store(known ? word : platform::kWhichever, std::memory_order_relaxed);
        std::uint32_t watching = kSelects;
        helper.state.compare_exchange_strong(watching, Helper::kRests, std::memory_order_relaxed);
        rouse();
    }
}

int Selection::descriptor(const Access&) {
    if (event_ == nullptr) {
        auto event = std::make_unique<platform::Event>();
        notifier_ = start_without_signals([this] { notify(); });
        event_ = std::move(event);
    }
    return event_->descriptor();
}

void Selection::notify() {
    constexpr std::int64_t kNapNs = 2'000'000;
    const auto refreshed = [this] {
        try {
            if (changed_) refresh_rosters();
        } catch (const std::exception&) {  // no memory, or no thread can be had now
        }
        return !changed_;
    };
    std::unique_lock lock(mutex_);
    Bed bed{*this, lock};
    while (!ends_.load(std::memory_order_relaxed)) {
        look_at_lives();
        if (!something()) {
            bed.park(refreshed() ? kSliceNs : kNapNs, [] {});
            roused_.store(false, std::memory_order_relaxed);
            continue;
        }
        event_->set();
        notified_ = true;
        while (notified_ && !ends_.load(std::memory_order_relaxed)) {
            goes_on_.store(0, std::memory_order_relaxed);
            lock.unlock();
            Native::futex_wait(goes_on_, 0, kSliceNs);
            lock.lock();
        }
    }
}

}  // namespace ringcast
