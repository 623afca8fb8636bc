// What is wanted of tiers: copies of what is used, chunks that are to come into memory, questions, clearing; and tiers that hang.
#include <algorithm>
#include <utility>

#include "platform/clock.hpp"
#include "pool/tier_driver.hpp"
#include "threads.hpp"

namespace ringcast::pool {

namespace {

constexpr std::size_t kMostWaiting = 4096;  // chunks that are to be copied to a tier
constexpr std::uint32_t kJobsAThread = 2;   // one that it does, and one that it finds when it has done it

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
        }
        if (!tier.hangs) {
            tier.clears.emplace_back(told);
        } else {  // done all the same, once it comes back
            tier.clears.emplace_back([](bool) {});
            told(false);
        }
    }
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
