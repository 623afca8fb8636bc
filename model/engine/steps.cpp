// What threads do, a step at a time: each waits for its turn, then reads, stores, sleeps, wakes, locks or dies.
#include <algorithm>
#include <utility>

#include "explorer.hpp"

namespace model {

std::uint64_t Explorer::load(std::uint32_t id, std::memory_order order, Site site) {
    take_step({Step::Kind::load, id});
    const std::uint8_t position = choose_store(id, memory_.thread(current_).now.seen[id], false, nullptr);
    memory_.read(current_, id, position, order);
    if (tracing_) note(site, name_of(id) + note_read(id, position));
    return memory_.location(id).stores[position].value[0];
}

void Explorer::store(std::uint32_t id, std::uint64_t value, std::memory_order order, Site site) {
    take_step({Step::Kind::write, id});
    const std::uint8_t after = choose_store(id, memory_.thread(current_).now.seen[id], true, nullptr);
    memory_.write(current_, id, after, Value{value, 0, 0}, order, false, site);
    if (tracing_) note(site, name_of(id) + note_write(id, after + 1u));
}

std::uint64_t Explorer::exchange(std::uint32_t id, std::uint64_t value, std::memory_order order, Site site) {
    take_step({.kind = Step::Kind::write, .object = id, .reads = true});
    const std::uint8_t position = choose_store(id, memory_.thread(current_).now.seen[id], true, nullptr);
    const std::uint64_t before = memory_.location(id).stores[position].value[0];
    memory_.read(current_, id, position, order);
    memory_.write(current_, id, position, Value{value, 0, 0}, order, true, site);
    if (tracing_) note(site, name_of(id) + ": " + std::to_string(before) + " exchanged for " + std::to_string(value));
    return before;
}

bool Explorer::compare_exchange(std::uint32_t id, std::uint64_t& expected, std::uint64_t desired,
                                std::memory_order success, std::memory_order failure, Site site) {
    take_step({.kind = Step::Kind::write, .object = id, .reads = true});
    const std::uint8_t position = choose_store(id, memory_.thread(current_).now.seen[id], true, &expected);
    const std::uint64_t found = memory_.location(id).stores[position].value[0];
    const bool swaps = found == expected;
    memory_.read(current_, id, position, swaps ? success : failure);
    if (swaps) memory_.write(current_, id, position, Value{desired, 0, 0}, success, true, site);
    if (tracing_)
        note(site, swaps ? name_of(id) + ": " + text_of(id, Value{found, 0, 0}) + " swapped for " +
                               text_of(id, Value{desired, 0, 0})
                         : name_of(id) + note_read(id, position) + ", not swapped");
    expected = found;
    return swaps;
}

void Explorer::fence(std::memory_order order, Site site) {
    // Other fences change only what this thread's own steps mean.
    if (order == std::memory_order_seq_cst)
        take_step({Step::Kind::fence, 0});
    else
        threads_[current_].at_mutant = std::exchange(at_mutant_, false);
    memory_.fence(current_, order);
    if (tracing_)
        note(site, order == std::memory_order_relaxed   ? "no fence"
                   : order == std::memory_order_seq_cst ? "fence, seq_cst"
                   : order == std::memory_order_acq_rel ? "fence, acq_rel"
                                                        : "fence, acquire or release");
}

std::uint32_t Explorer::bytes_at(const void* address) {
    for (std::size_t i = 0; i < addresses_.size(); ++i)
        if (addresses_[i] == address) return static_cast<std::uint32_t>(i);
    return add_location(0, address);
}

void Explorer::report_race(std::uint32_t id, std::uint8_t other, const char* did) {
    fail("race: " + thread_name(current_) + " " + did + " " + name_of(id) + " while " + thread_name(other) +
         " may still be at it, as far as it can know");
}

void Explorer::write_bytes(const void* address, const Value& value, bool forgiving, Site site) {
    const std::uint32_t id = bytes_at(address);
    take_step(
        {.kind = Step::Kind::write, .object = id, .bytes = forgiving ? Step::Bytes::forgiving : Step::Bytes::strict});
    Location& bytes = memory_.location(id);
    const std::uint8_t after = choose_store(id, bytes.stores.size() - 1, true, nullptr);
    memory_.write(current_, id, after, value, std::memory_order_relaxed, false, site);
    if (tracing_) note(site, name_of(id) + note_write(id, after + 1u));
    const auto& clock = memory_.thread(current_).now.clock;
    for (std::uint8_t i = 0; i < n_threads_; ++i)
        if (i != current_ && bytes.read_at[i] > clock[i] && !(forgiving && threads_[i].excused) && !threads_[i].dead)
            report_race(id, i, "overwrites");
    for (const Store& store : bytes.stores)
        if (store.thread != kNoThread && store.clock > clock[store.thread] && !threads_[store.thread].dead)
            report_race(id, store.thread, "overwrites");
}

Value Explorer::read_bytes(const void* address, bool forgiving, Site site) {
    const std::uint32_t id = bytes_at(address);
    take_step(
        {.kind = Step::Kind::load, .object = id, .bytes = forgiving ? Step::Bytes::forgiving : Step::Bytes::strict});
    Location& bytes = memory_.location(id);
    const auto& clock = memory_.thread(current_).now.clock;
    bytes.read_at[current_] = clock[current_];
    const auto races = [&](const Store& store) {
        return store.thread != kNoThread && store.clock > clock[store.thread];
    };
    const std::uint8_t position = choose_store(id, memory_.thread(current_).now.seen[id], false, nullptr);
    const bool torn = races(bytes.stores[position]);
    if (tracing_) note(site, name_of(id) + (torn ? " copied while it is overwritten" : note_read(id, position)));
    for (const Store& store : bytes.stores)
        if (races(store) && !(forgiving && threads_[current_].excused)) report_race(id, store.thread, "copies");
    memory_.read(current_, id, position, std::memory_order_relaxed);
    return torn ? Value{kPoison, kPoison, kPoison} : bytes.stores[position].value;
}

WaitResult Explorer::futex_wait(std::uint32_t id, std::uint64_t expected, Site site) {
    return futex_wait_any({id}, expected, site).result;
}

Explorer::WaitedForAny Explorer::futex_wait_any(const std::vector<std::uint32_t>& ids, std::uint64_t expected,
                                                Site site) {
    Running& me = threads_[current_];
    me.n_words = 0;
    me.woken = false;
    for (const std::uint32_t id : ids) {
        take_step({Step::Kind::wait, id});
        const std::size_t from = std::max(memory_.thread(current_).now.seen[id], memory_.known_to_kernel(id).seen[id]);
        const std::uint8_t position = choose_store(id, from, false, nullptr);
        memory_.read(current_, id, position, std::memory_order_relaxed);
        if (memory_.location(id).stores[position].value[0] != expected) {
            if (tracing_) note(site, name_of(id) + note_read(id, position) + ": does not sleep");
            me.n_words = 0;
            return {WaitResult::woken, std::nullopt};
        }
        if (tracing_) note(site, "sleeps on " + name_of(id));
        me.words[me.n_words++] = id;
    }
    me.timed_out = false;
    me.sleeping = !me.woken;
    take_step({});
    me.n_words = 0;
    if (tracing_) note(site, me.timed_out ? "time-out: nothing else can happen" : "woken");
    if (me.timed_out) return {WaitResult::timed_out, std::nullopt};
    const auto word = std::find(ids.begin(), ids.end(), me.woken_on) - ids.begin();
    return {WaitResult::woken, static_cast<std::uint32_t>(word)};
}

void Explorer::futex_wake(std::uint32_t id, Site site) {
    take_step({Step::Kind::wake, id});
    memory_.pass_to_kernel(current_, id);
    std::string who;
    for (std::uint8_t i = 0; i < n_threads_; ++i) {
        Running& t = threads_[i];
        const auto words_end = t.words.cbegin() + t.n_words;
        if (t.dead || std::find(t.words.cbegin(), words_end, id) == words_end) continue;
        t.sleeping = false;
        t.woken = true;
        t.woken_on = id;
        come_after(i, threads_[current_].past);
        if (tracing_) who += " " + thread_name(i);
    }
    if (tracing_) note(site, who.empty() ? "wakes nobody" : "wakes" + who);
}

void Explorer::lock(std::uint32_t which, Site site) {
    take_step({Step::Kind::lock, 1u << which});
    locks_[which] = current_;
    memory_.order_after_lock(current_, which);
    if (tracing_) note(site, "gets lock " + std::to_string(which));
}

void Explorer::unlock(std::uint32_t which, Site site) {
    take_step({.kind = Step::Kind::lock, .object = 1u << which, .drops = true});
    locks_[which] = kNoThread;
    memory_.leave_in_lock(current_, which);
    if (tracing_) note(site, "drops lock " + std::to_string(which));
}

bool Explorer::is_locked(std::uint32_t which, Site site) {
    take_step({.kind = Step::Kind::lock, .object = 1u << which, .drops = true});
    if (tracing_) note(site, "lock " + std::to_string(which) + (locks_[which] == kNoThread ? " is free" : " is held"));
    if (locks_[which] == kNoThread) memory_.order_after_lock(current_, which);
    return locks_[which] != kNoThread;
}

void Explorer::kill(std::uint8_t thread, Site site) {
    take_step({Step::Kind::kill, thread});
    if (tracing_) note(site, thread_name(thread) + " is killed");
    Running& t = threads_[thread];
    if (t.finished) return;
    t.dead = true;
    drop_locks(thread);
}

bool Explorer::any_killed() const {
    return std::any_of(threads_.begin(), threads_.begin() + n_threads_, [](const Running& t) { return t.dead; });
}

}  // namespace model
