#include "pool/tier_driver.hpp"

#include <algorithm>
#include <utility>

#include "platform/clock.hpp"
#include "threads.hpp"

namespace ringcast::pool {

namespace {

constexpr std::size_t kMostWaiting = 4096;   // chunks that are to be copied to a tier
constexpr std::size_t kMostGiven = 1 << 16;  // checksums of what other machines were given
constexpr std::uint64_t kHeldParts = 4;      // of the capacity, what stores to a tier may hold
constexpr std::uint32_t kJobsAThread = 2;    // one that it does, and one that it finds when it has done it

void add(std::atomic<std::uint64_t>& figure, std::uint64_t by = 1) noexcept {
    figure.store(figure.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
}

}  // namespace

std::vector<TierTable::Place> TierDriver::places(std::span<const Options> options) {
    std::vector<TierTable::Place> all;
    for (const Options& one : options)
        all.push_back({one.native != nullptr, one.native != nullptr ? one.native->slots() : 0});
    return all;
}

std::vector<Keeper::Content> TierDriver::contents(std::span<const Options> options) {
    std::vector<Keeper::Content> all;
    for (std::uint32_t tier = 0; tier < options.size(); ++tier)
        if (options[tier].native != nullptr) all.push_back({tier, options[tier].native->contents()});
    return all;
}

TierDriver::TierDriver(Keeper& keeper, ServerWords<Native>& server_words, std::uint64_t capacity,
                       std::span<const Options> options, std::int64_t patience_ns, std::function<void()> rouse)
    : keeper_(keeper),
      words_(server_words),
      capacity_(capacity),
      patience_ns_(patience_ns),
      finished_(std::make_shared<FinishedTierJobs>(std::move(rouse))),
      errors_(options.size()) {
    words_.n_tiers.store(0, std::memory_order_relaxed);
    for (std::uint32_t i = 0; i < options.size(); ++i) {
        const Options& one = options[i];
        Tier& tier = tiers_.emplace_back();
        tier.native = one.native;
        tier.depth = one.threads * kJobsAThread;
        tier.work = std::make_shared<TierWork>(finished_);
        if (!tier.local()) asks_ = true;
        TierWords& its = words(i);
        copy_text(its.name, sizeof its.name, one.name);
        its.local.store(tier.local() ? 1 : 0, std::memory_order_relaxed);
        its.slots.store(tier.local() ? one.native->slots() : 0, std::memory_order_relaxed);
        for (auto* figure :
             {&its.copies, &its.stored, &its.stored_bytes, &its.store_ns, &its.wanted, &its.loaded, &its.loaded_bytes,
              &its.load_ns, &its.dropped, &its.failed, &its.corrupt, &its.late, &its.waiting, &its.running})
            figure->store(0, std::memory_order_relaxed);
    }
    if (any()) wanted_.resize(keeper.entries());
    words_.asks_tiers.store(asks_ ? 1 : 0, std::memory_order_relaxed);
    words_.n_tiers.store(static_cast<std::uint32_t>(tiers_.size()), std::memory_order_relaxed);
    try {
        for (std::uint32_t i = 0; i < options.size(); ++i)
            for (std::uint32_t k = 0; tiers_[i].local() && k < options[i].threads; ++k)
                tiers_[i].threads.push_back(start_without_signals(
                    [work = tiers_[i].work, native = tiers_[i].native] { run_tier(*work, *native); }));
    } catch (const std::system_error&) {
        end(0);
        throw;
    }
}

TierDriver::~TierDriver() { end(0); }

bool TierDriver::end(std::int64_t patience_ns) {
    finished_->end();
    const std::int64_t until = platform::monotonic_ns() + patience_ns;
    bool all = true;
    for (Tier& tier : tiers_) {
        const bool back = tier.work->end(std::max<std::int64_t>(until - platform::monotonic_ns(), 0));
        all = all && back;
        for (std::thread& thread : tier.threads) back ? thread.join() : thread.detach();
        tier.threads.clear();
    }
    return all;
}

std::vector<std::string> TierDriver::errors() const {
    const std::lock_guard guard(errors_mutex_);
    return errors_;
}

void TierDriver::note_error(std::uint32_t tier, const std::string& error) {
    const std::lock_guard guard(errors_mutex_);
    errors_[tier] = error;
}

// --- What is wanted.

void TierDriver::used(std::uint32_t entry, std::uint32_t ancestors) {
    if (!any()) return;
    chain_.clear();
    keeper_.for_each_of_chain(entry, ancestors, [&](std::uint32_t e) {
        if (!keeper_.tiers().has_all(e)) chain_.push_back(e);
    });
    // What begins the chain first: nothing is found that continues what is not there.
    std::ranges::reverse(chain_);
    for (const std::uint32_t e : chain_) {
        for (std::uint32_t t = 0; t < tiers_.size(); ++t) {
            Tier& tier = tiers_[t];
            if (keeper_.tiers().has(e, t) || (wanted_[e] >> t & 1) != 0) continue;
            if (tier.hangs || tier.stores.size() >= kMostWaiting || leaves(tier, keeper_.key_of(e))) {
                add(words(t).dropped);
                continue;
            }
            wanted_[e] = static_cast<std::uint8_t>(wanted_[e] | 1 << t);
            tier.stores.push_back({e, keeper_.generation_of_entry(e)});
        }
    }
}

Status TierDriver::bring(const Storing& storing, std::uint32_t entry) {
    chain_.clear();
    for (std::uint32_t e = entry; e != kNoEntry && keeper_.state_of_entry(e) == EntryState::tiered;
         e = keeper_.parent_of(e))
        chain_.push_back(e);
    for (std::size_t i = chain_.size(); i-- > 0;) {
        const std::uint32_t e = chain_[i];
        if (keeper_.length_of(e) != storing.length) return Status::miss;
        std::uint32_t tier = keeper_.tiers().fastest(e);
        while (tier < tiers_.size() && !is_usable(tier)) tier = keeper_.tiers().fastest(e, tier + 1);
        if (tier >= tiers_.size()) return Status::tiered;
        const auto got = keeper_.take_back(storing, e);
        if (got.status != Status::reserved) return got.status == Status::orphan ? Status::miss : got.status;
        load(e, tier);
    }
    return Status::pending;
}

Keeper::Reserved TierDriver::bring_from(std::uint32_t tier, const Storing& storing, const Digest& key,
                                        std::uint32_t parent) {
    const auto got = keeper_.reserve(storing, key, parent);
    if (got.status == Status::reserved) load(got.entry, tier);
    return got;
}

void TierDriver::load(std::uint32_t entry, std::uint32_t tier) {
    add(words(tier).wanted);
    tiers_[tier].loads.push_back({entry, keeper_.generation_of_entry(entry)});
}

// From the next tier that has it; there is none: a miss.
void TierDriver::load_elsewhere(std::uint32_t e) {
    for (std::uint32_t tier = keeper_.tiers().fastest(e); tier < tiers_.size();
         tier = keeper_.tiers().fastest(e, tier + 1))
        if (is_usable(tier)) return load(e, tier);
    keeper_.not_filled(e);
}

void TierDriver::find(std::vector<Digest> keys, bool leading, Answer answer) {
    const std::uint64_t number = next_question_++;
    Question& question = questions_[number];
    question.tiers.assign(keys.size(), 0);
    question.keys = std::move(keys);
    question.leading = leading;
    question.answer = std::move(answer);
    ask_next(number, 0);
}

void TierDriver::ask_next(std::uint64_t number, std::uint32_t from) {
    Question& question = questions_.at(number);
    question.which.clear();
    for (std::uint32_t i = 0; i < question.keys.size(); ++i)
        if (question.tiers[i] == 0) question.which.push_back(i);
    for (std::uint32_t t = from; t < tiers_.size() && !question.which.empty(); ++t) {
        if (tiers_[t].local() || !is_usable(t)) continue;
        question.asked = t;
        tiers_[t].questions.push_back(number);
        return;
    }
    const Question done = std::move(question);
    questions_.erase(number);
    done.answer(done.tiers);
}

void TierDriver::clear(bool wholly, std::function<void(bool)> answer) {
    struct Left {
        std::size_t tiers;
        bool certain = true;
        std::function<void(bool)> answer;
    };
    const auto left = std::make_shared<Left>(Left{tiers_.size(), true, std::move(answer)});
    for (std::uint32_t t = 0; t < tiers_.size(); ++t) {
        Tier& tier = tiers_[t];
        std::function<void(bool)> told = [left](bool certain) {
            left->certain = left->certain && certain;
            if (--left->tiers == 0) left->answer(left->certain);
        };
        if (wholly || !tier.local()) {
            for (const Wanted& wanted : tier.stores) is_wanted_no_more(wanted.entry, t);
            tier.stores.clear();
            for (const Digest& key : tier.removals) tier.leaving.erase(key.words[0]);
            tier.removals.clear();
            tier.wholly = true;
        } else {  // a header that could not be erased is found again by the next server
            told = [told, native = tier.native, failed = tier.native->counts().failed](bool certain) {
                told(certain && native->counts().failed == failed);
            };
        }
        if (!tier.hangs) {
            tier.clears.emplace_back(told);
        } else {  // done all the same, once it comes back
            tier.clears.emplace_back([](bool) {});
            told(false);
        }
    }
}

// --- What is done.

void TierDriver::work() {
    if (!any()) return;
    for (auto& job : finished_->take()) finished(std::move(job));
    look_for_hanging();
    for (std::uint32_t t = 0; t < tiers_.size(); ++t) {
        take_removals();
        dispatch(t);
        publish(t);
    }
}

void TierDriver::take_removals() {
    for (const auto& [tier, key] : keeper_.tiers().take_removals()) {
        if (leaves(tiers_[tier], key)) continue;
        tiers_[tier].leaving.insert(key.words[0]);
        tiers_[tier].removals.push_back(key);
    }
}

void TierDriver::finished(std::unique_ptr<TierJob> job) {
    Tier& tier = tiers_[job->tier];
    --tier.running;
    tier.heard_at = platform::monotonic_ns();
    tier.hangs = false;
    if (job->outcome == TierOutcome::failed) add(words(job->tier).failed);
    if (job->outcome == TierOutcome::corrupt && !job->memory_is_damaged) add(words(job->tier).corrupt);
    if (!job->error.empty()) note_error(job->tier, job->error);
    switch (job->task) {
        case TierTask::store:
            return finished_store(tier, *job);
        case TierTask::load:
            return finished_load(tier, *job);
        case TierTask::remove:
            tier.leaving.erase(job->key.words[0]);
            return;
        case TierTask::find: {
            const auto asked = questions_.find(job->number);
            if (asked == questions_.end() || asked->second.asked != job->tier) return;  // it was given up
            for (std::size_t i = 0; i < job->found.size(); ++i)
                if (job->found[i]) asked->second.tiers[asked->second.which[i]] = job->tier + 1;
            return ask_next(job->number, job->tier + 1);
        }
        case TierTask::clear:
        case TierTask::sync:
            for (const auto& answer : std::exchange(tier.clearing, {})) answer(job->outcome == TierOutcome::done);
            return;
    }
}

void TierDriver::finished_store(Tier& tier, TierJob& job) {
    const std::uint32_t e = job.entry;
    tier.coming.erase(job.key.words[0]);
    keeper_.let_go(e);
    const bool same = is_there(e, job.generation);
    TierWords& its = words(job.tier);
    add(its.store_ns, static_cast<std::uint64_t>(job.took_ns));
    if (job.memory_is_damaged) {
        if (same) keeper_.suspect(e, job.generation);
    } else if (job.outcome != TierOutcome::done) {
        add(its.dropped);
    } else {
        add(its.stored);
        add(its.stored_bytes, job.bytes.size());
        if (!tier.local()) note_given(job.key, *job.crc);
        if (same)
            keeper_.copied(e, job.tier, *job.crc);
        else if (tier.local())
            keeper_.tiers().remove_later(job.tier, job.key);
    }
}

void TierDriver::note_given(const Digest& key, std::uint32_t crc) {
    if (!given_.insert_or_assign(key, crc).second) return;
    given_first_.push_back(key);
    if (given_.size() <= kMostGiven) return;
    given_.erase(given_first_.front());
    given_first_.pop_front();
}

void TierDriver::finished_load(Tier& tier, TierJob& job) {
    const std::uint32_t e = job.entry;
    std::erase_if(tier.loading, [&](const Wanted& one) { return one.entry == e && one.generation == job.generation; });
    keeper_.let_go(e);
    const bool ours = is_ours(e, job.generation);
    TierWords& its = words(job.tier);
    add(its.load_ns, static_cast<std::uint64_t>(job.took_ns));
    if (job.outcome == TierOutcome::done) {
        add(its.loaded);
        add(its.loaded_bytes, job.bytes.size());
        if (!ours) return;
        keeper_.tiers().add(e, job.tier, job.key, keeper_.parent_of(e), *job.crc);
        keeper_.filled(e, *job.crc);
        return;
    }
    if (keeper_.generation_of_entry(e) == job.generation)
        keeper_.lose_copy(e, job.tier,
                          job.outcome == TierOutcome::corrupt ? EventReason::damaged : EventReason::failed);
    if (ours) load_elsewhere(e);
}

void TierDriver::give(std::uint32_t t, std::unique_ptr<TierJob> job) {
    Tier& tier = tiers_[t];
    if (tier.running++ == 0) tier.heard_at = platform::monotonic_ns();
    job->tier = t;
    tier.work->give(std::move(job));
}

std::unique_ptr<TierJob> TierDriver::job_with(TierTask task, const Wanted& wanted) {
    auto job = std::make_unique<TierJob>();
    job->task = task;
    job->entry = wanted.entry;
    job->generation = wanted.generation;
    job->key = keeper_.key_of(wanted.entry);
    job->bytes = keeper_.bytes_of(wanted.entry);
    keeper_.hold(wanted.entry);
    return job;
}

void TierDriver::dispatch(std::uint32_t t) {
    Tier& tier = tiers_[t];
    while (!tier.hangs && tier.running < tier.depth && tier.clearing.empty()) {
        if (!tier.clears.empty()) {
            // Alone: what is stored at the same time must not be found in the next era, and is removed if that stays.
            if (!tier.wholly && give_removal(t)) continue;
            if (tier.running != 0) return;
            tier.clearing = std::exchange(tier.clears, {});
            auto job = std::make_unique<TierJob>();
            job->task = std::exchange(tier.wholly, false) ? TierTask::clear : TierTask::sync;
            give(t, std::move(job));
            return;
        }
        if (!give_load(t) && !give_removal(t) && !give_question(t) && !give_store(t)) return;
    }
}

bool TierDriver::give_load(std::uint32_t t) {
    Tier& tier = tiers_[t];
    while (!tier.loads.empty()) {
        const Wanted wanted = tier.loads.front();
        tier.loads.pop_front();
        const std::uint32_t e = wanted.entry;
        if (!is_ours(e, wanted.generation)) continue;
        auto job = job_with(TierTask::load, wanted);
        if (keeper_.tiers().has(e, t))
            job->crc = keeper_.tiers().crc(e);
        else if (const auto given = given_.find(job->key); given != given_.end())
            job->crc = given->second;
        tier.loading.push_back(wanted);
        give(t, std::move(job));
        return true;
    }
    return false;
}

bool TierDriver::give_removal(std::uint32_t t) {
    Tier& tier = tiers_[t];
    if (tier.removals.empty()) return false;
    auto job = std::make_unique<TierJob>();
    job->task = TierTask::remove;
    job->key = tier.removals.front();
    tier.removals.pop_front();
    give(t, std::move(job));
    return true;
}

bool TierDriver::give_question(std::uint32_t t) {
    Tier& tier = tiers_[t];
    while (!tier.questions.empty()) {
        const std::uint64_t number = tier.questions.front();
        tier.questions.pop_front();
        const auto asked = questions_.find(number);
        if (asked == questions_.end() || asked->second.asked != t) continue;
        auto job = std::make_unique<TierJob>();
        job->task = TierTask::find;
        job->number = number;
        job->leading = asked->second.leading;
        for (const std::uint32_t i : asked->second.which) job->keys.push_back(asked->second.keys[i]);
        give(t, std::move(job));
        return true;
    }
    return false;
}

bool TierDriver::give_store(std::uint32_t t) {
    Tier& tier = tiers_[t];
    while (!tier.stores.empty()) {
        const Wanted wanted = tier.stores.front();
        const std::uint32_t e = wanted.entry;
        const bool there = is_there(e, wanted.generation);
        if (there && !tier.coming.empty() &&
            (tier.coming.size() + 1) * std::uint64_t{keeper_.length_of(e)} > capacity_ / kHeldParts)
            return false;
        // Of two stores of one key at once the first, whose chunk is gone, would remove what the second had stored.
        bool fits = !leaves(tier, keeper_.key_of(e)) && !tier.coming.contains(keeper_.key_of(e).words[0]);
        if (there && fits && tier.local() &&
            keeper_.tiers().copies(t) + tier.coming.size() + tier.leaving.size() >= keeper_.tiers().slots(t)) {
            // One goes for it: this one waits until it has gone.
            fits = tier.leaving.size() >= tier.depth || keeper_.make_room(t) || !tier.leaving.empty();
            if (fits) {
                take_removals();
                return give_removal(t);
            }
        }
        tier.stores.pop_front();
        is_wanted_no_more(e, t);
        if (!there || !fits) {
            add(words(t).dropped);
            continue;
        }
        auto job = job_with(TierTask::store, wanted);
        job->note = keeper_.note_for(e);
        job->crc = keeper_.checksum_of_entry(e);
        tier.coming.insert(job->key.words[0]);
        give(t, std::move(job));
        return true;
    }
    return false;
}

// --- Tiers from which nothing comes.

void TierDriver::look_for_hanging() {
    const std::int64_t now = platform::monotonic_ns();
    for (std::uint32_t t = 0; t < tiers_.size(); ++t) {
        Tier& tier = tiers_[t];
        if (tier.hangs || tier.running == 0 || now - tier.heard_at < patience_ns_) continue;
        tier.hangs = true;
        note_error(t, "nothing has come from it for " + std::to_string(patience_ns_ / 1'000'000'000) + " s");
        give_up(t);
    }
}

// What is being loaded keeps its block until its thread is back, and is found by nobody; its copy stays.
void TierDriver::give_up(std::uint32_t t) {
    Tier& tier = tiers_[t];
    for (const Wanted& one : std::exchange(tier.loading, {})) {
        if (!is_ours(one.entry, one.generation)) continue;
        add(words(t).late);
        keeper_.not_filled(one.entry);
    }
    for (const Wanted& one : std::exchange(tier.loads, {})) {
        if (!is_ours(one.entry, one.generation)) continue;
        add(words(t).late);
        load_elsewhere(one.entry);
    }
    for (const Wanted& one : std::exchange(tier.stores, {})) {
        is_wanted_no_more(one.entry, t);
        add(words(t).dropped);
    }
    std::vector<std::uint64_t> asked;
    for (const auto& [number, question] : questions_)
        if (question.asked == t) asked.push_back(number);
    tier.questions.clear();
    for (const std::uint64_t number : asked) ask_next(number, t + 1);
    // Who waits for it is told that it is not certain; it is done all the same once the tier comes back.
    std::vector<std::function<void(bool)>> waiting = std::exchange(tier.clearing, {});
    const bool begun = !waiting.empty();
    for (auto& one : std::exchange(tier.clears, {})) waiting.push_back(std::move(one));
    if (!waiting.empty() && !begun) tier.clears.push_back([](bool) {});
    if (begun) tier.clearing.push_back([](bool) {});
    for (const auto& answer : waiting) answer(false);
}

void TierDriver::publish(std::uint32_t t) {
    const Tier& tier = tiers_[t];
    words(t).copies.store(keeper_.tiers().copies(t), std::memory_order_relaxed);
    words(t).waiting.store(tier.loads.size() + tier.stores.size(), std::memory_order_relaxed);
    words(t).running.store(tier.running, std::memory_order_relaxed);
}

}  // namespace ringcast::pool
