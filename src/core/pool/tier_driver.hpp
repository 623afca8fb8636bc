// What a pool's server has its tiers do: copies written behind, chunks brought back, copies removed, eras raised.
//
// The server's thread calls it and never waits in it. What is to be copied is a bounded list of entries that may be evicted
// meanwhile; only what a thread is about to read is held. What is to be brought back is reserved at once, so that others
// see it as pending. A tier from which nothing comes for too long gets nothing more until something does, and what was
// wanted of it is a miss.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "pool/keeper.hpp"
#include "pool/tier_work.hpp"

namespace ringcast::pool {

class TierDriver {
public:
    struct Options {
        std::string name;  // for people
        FileTier* native;  // null: other threads do its work, and it is not asked what it has
        std::uint32_t threads;
    };
    // `rouse` is called by other threads, when `any_finished`.
    TierDriver(Keeper& keeper, ServerWords<Native>& words, std::uint64_t capacity, std::span<const Options> options,
               std::int64_t patience_ns, std::function<void()> rouse);
    ~TierDriver();
    TierDriver(const TierDriver&) = delete;
    TierDriver& operator=(const TierDriver&) = delete;

    static std::vector<TierTable::Place> places(std::span<const Options> options);
    static std::vector<Keeper::Content> contents(std::span<const Options> options);

    // --- The server's thread.

    bool any_finished() const noexcept { return finished_->any(); }
    bool any() const noexcept { return !tiers_.empty(); }
    bool asks() const noexcept { return asks_; }  // is there a tier whose chunks are not in the index?
    // A chunk that was used again, with so many of its ancestors: what has no copy yet is to get one.
    void used(std::uint32_t entry, std::uint32_t ancestors);
    // A chunk that is only in tiers is to come into memory, after its ancestors. `pending`: it will.
    Status bring(const Storing& storing, std::uint32_t entry);
    // The same of one that tier has and the index does not.
    Keeper::Reserved bring_from(std::uint32_t tier, const Storing& storing, const Digest& key, std::uint32_t parent);
    // Which of the keys are in tiers that have to be asked? The answer comes later: for each key its tier + 1, or 0.
    using Answer = std::function<void(std::span<const std::uint32_t> tiers)>;
    void find(std::vector<Digest> keys, bool leading, Answer answer);
    // What the keeper has just forgotten is gone for good when the answer comes, which says whether that is certain. Of
    // one namespace (`wholly` is false) the tiers of this machine remove what is its; all other eras are raised.
    void clear(bool wholly, std::function<void(bool)> answer);
    // Takes what has been finished, gives what there is to do.
    void work();

    // Nothing more is given. False: some threads have not come back; what they use must stay.
    bool end(std::int64_t patience_ns);

    // --- Any thread's.

    std::shared_ptr<TierWork> work_of(std::uint32_t tier) const { return tiers_[tier].work; }
    // The last error of each.
    std::vector<std::string> errors() const;

private:
    struct Wanted {
        std::uint32_t entry;
        std::uint32_t generation;
    };
    struct Tier {
        FileTier* native;     // null: not of this machine
        std::uint32_t depth;  // jobs that its threads have at most
        std::shared_ptr<TierWork> work;
        std::vector<std::thread> threads;
        std::deque<Wanted> loads;
        std::vector<Wanted> loading;
        std::deque<Wanted> stores;
        std::deque<Digest> removals;
        std::deque<std::uint64_t> questions;            // their numbers
        std::vector<std::function<void(bool)>> clears;  // all answered by the next one
        bool wholly = false;                            // that raises the era; else it syncs what was removed
        std::vector<std::function<void(bool)>> clearing;
        // Keys that are being stored, and removed: their first words.
        std::unordered_set<std::uint64_t> coming;
        std::unordered_set<std::uint64_t> leaving;
        std::uint32_t running = 0;
        std::int64_t heard_at = 0;  // when something came from it, or it was idle
        bool hangs = false;
        bool local() const noexcept { return native != nullptr; }
    };
    struct Question {
        std::vector<Digest> keys;
        std::vector<std::uint32_t> tiers;  // + 1
        bool leading;
        Answer answer;
        std::uint32_t asked = 0;             // the tier that is asked now
        std::vector<std::uint32_t> which{};  // ... for these keys
    };

    void finished(std::unique_ptr<TierJob> job);
    void finished_store(Tier& tier, TierJob& job);
    void finished_load(Tier& tier, TierJob& job);
    void dispatch(std::uint32_t tier);
    bool give_load(std::uint32_t tier);
    bool give_removal(std::uint32_t tier);
    bool give_question(std::uint32_t tier);
    bool give_store(std::uint32_t tier);
    void give(std::uint32_t tier, std::unique_ptr<TierJob> job);
    // With the bytes of an entry, which are held until it is finished.
    std::unique_ptr<TierJob> job_with(TierTask task, const Wanted& wanted);
    // What it is wanted for, it is still: to be filled by the server; to be copied.
    bool is_ours(std::uint32_t entry, std::uint32_t generation) const noexcept {
        return keeper_.generation_of_entry(entry) == generation && keeper_.is_servers_own(entry);
    }
    bool is_there(std::uint32_t entry, std::uint32_t generation) const noexcept {
        return keeper_.generation_of_entry(entry) == generation && keeper_.state_of_entry(entry) == EntryState::present;
    }
    void is_wanted_no_more(std::uint32_t entry, std::uint32_t tier) noexcept {
        wanted_[entry] = static_cast<std::uint8_t>(wanted_[entry] & ~(1 << tier));
    }
    void ask_next(std::uint64_t number, std::uint32_t from);
    void look_for_hanging();
    void load(std::uint32_t entry, std::uint32_t tier);
    void give_up(std::uint32_t tier);
    void load_elsewhere(std::uint32_t entry);
    void take_removals();
    void note_given(const Digest& key, std::uint32_t crc);
    void note_error(std::uint32_t tier, const std::string& error);
    bool is_usable(std::uint32_t tier) const noexcept { return !tiers_[tier].hangs; }
    void publish(std::uint32_t tier);
    TierWords& words(std::uint32_t tier) noexcept { return words_.tiers[tier]; }
    // By its only writer.
    static void add(std::atomic<std::uint64_t>& figure, std::uint64_t by = 1) noexcept {
        figure.store(figure.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
    }
    bool leaves(const Tier& tier, const Digest& key) const { return tier.leaving.contains(key.words[0]); }

    Keeper& keeper_;
    ServerWords<Native>& words_;
    std::uint64_t capacity_;
    std::int64_t patience_ns_;
    bool asks_ = false;
    std::shared_ptr<FinishedTierJobs> finished_;
    std::deque<Tier> tiers_;            // which stay where they are
    std::vector<std::uint8_t> wanted_;  // by entry: in whose `stores` it is
    // What other machines were given lately, and its checksum: not all that comes back from there has one.
    struct DigestHash {
        std::size_t operator()(const Digest& digest) const noexcept {
            return static_cast<std::size_t>(digest.words[0]);
        }
    };
    std::unordered_map<Digest, std::uint32_t, DigestHash> given_;
    std::deque<Digest> given_first_;
    std::unordered_map<std::uint64_t, Question> questions_;
    std::uint64_t next_question_ = 0;
    std::vector<std::uint32_t> chain_;
    mutable std::mutex errors_mutex_;
    std::vector<std::string> errors_;
};

}  // namespace ringcast::pool
