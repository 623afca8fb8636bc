// Jobs of tiers' threads: which are given next, and what becomes of those that are finished.
#include <algorithm>
#include <utility>

#include "platform/clock.hpp"
#include "pool/tier_driver.hpp"

namespace ringcast::pool {

namespace {

constexpr std::size_t kMostGiven = 1 << 16;  // checksums of what other machines were given
constexpr std::uint64_t kHeldParts = 4;      // of the capacity, what stores to a tier may hold

}  // namespace

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
            // One goes for each that waits, and waits until it has gone.
            const std::size_t enough = std::min<std::size_t>(tier.depth, tier.stores.size());
            fits = tier.leaving.size() >= enough || keeper_.make_room(t) || !tier.leaving.empty();
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

}  // namespace ringcast::pool
