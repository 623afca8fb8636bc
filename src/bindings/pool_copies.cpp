// Copies between an engine's tensors and chunks of leases, without the interpreter's lock.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <tuple>

#include "arguments.hpp"
#include "pool/copies.hpp"
#include "pool_client.hpp"
#include "py_errors.hpp"
#include "unlocked.hpp"

namespace ringcast::bindings {

using namespace nb::literals;
using pool::CopyPlan;
using pool::Direction;
using State = Gathers::State;

namespace {

constexpr std::uint32_t kMostThreads = 1024;

using PlaneFields = std::tuple<std::uint64_t, std::int64_t, std::int64_t, std::int64_t, std::uint64_t, std::uint64_t>;

void make_plan(CopyPlan* plan, const std::vector<PlaneFields>& fields, std::uint64_t n_blocks,
               std::uint64_t block_tokens, std::uint64_t chunk_tokens) {
    std::vector<pool::Plane> planes;
    for (const auto& [address, block_stride, token_stride, head_stride, heads, row_bytes] : fields)
        planes.push_back({reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(address)), block_stride,
                          token_stride, head_stride, heads, row_bytes});
    std::construct_at(plan, std::move(planes), n_blocks, block_tokens, chunk_tokens);
}

std::vector<std::int64_t> parse_block_ids(nb::handle object, const CopyPlan& plan) {
    const auto most = static_cast<std::int64_t>(plan.n_blocks()) - 1;
    std::vector<std::int64_t> ids;
    const nb::object iterator = parse_iterable("block_ids", object.ptr());
    while (PyObject* item = PyIter_Next(iterator.ptr())) {
        const nb::object held = nb::steal(item);
        ids.push_back(parse_int("a block id", item, 0, most));
    }
    if (PyErr_Occurred() != nullptr) throw nb::python_error();
    return ids;
}

// Chunks that a copy reads or fills. Their leases keep them for so long: they are pinned as if there were a view of each,
// and a store that one of them belongs to is not committed.
class PoolCopy {
public:
    PoolCopy(nb::object plan, nb::handle block_ids, nb::handle slots, bool gathers, bool partial, nb::handle skip)
        : plan_object_(std::move(plan)),
          plan_(nb::cast<const CopyPlan&>(plan_object_)),
          direction_(gathers ? Direction::gather : Direction::scatter),
          ids_(parse_block_ids(block_ids, plan_)) {
        const nb::object iterator = parse_iterable("slots", slots.ptr());
        while (PyObject* item = PyIter_Next(iterator.ptr())) add(nb::steal(item));
        if (PyErr_Occurred() != nullptr) throw nb::python_error();
        check_ids(partial);
        const std::uint64_t tokens = targets_.size() * plan_.chunk_tokens();
        skip_ = static_cast<std::uint64_t>(parse_int("skip_tokens", skip.ptr(), 0, static_cast<std::int64_t>(tokens)));
        claim();
    }
    ~PoolCopy() { release(State::failed); }
    PoolCopy(const PoolCopy&) = delete;
    PoolCopy& operator=(const PoolCopy&) = delete;

    // Copies, once. Which of the chunks, by their keys' places, are not what was stored.
    nb::list run(std::uint32_t threads) { return copy(plan_, ids_, skip_, 0, targets_.size(), threads); }
    // The same for the chunks from `begin` to `end`, which are in a row; with the last ones it is made. `staging` has them
    // whole, one after the other.
    nb::list run_staged(const CopyPlan& staging, std::size_t begin, std::size_t end, std::uint32_t threads) {
        std::vector<std::int64_t> places(end - begin);
        std::iota(places.begin(), places.end(), 0);
        return copy(staging, places, 0, begin, end, threads);
    }
    // It will not be made.
    void give_up() noexcept { release(State::failed); }
    // Tells the server which chunks are damaged.
    void report() {
        for (const std::size_t k : damaged_) {
            const Target& target = targets_[k];
            const auto& lease = nb::cast<RetrieveLease&>(target.lease);
            report_damage(nb::cast<PoolClient&>(lease.client), lease.core, target.look());
        }
        damaged_.clear();
    }
    bool damaged() const noexcept { return !damaged_.empty(); }

private:
    struct Target {
        nb::object lease;
        PoolLease* of;
        std::uint32_t index;
        std::byte* bytes;
        bool summed;

        const pool::Look& look() const { return of->looks[index]; }
    };

    nb::list copy(const CopyPlan& plan, std::span<const std::int64_t> ids, std::uint64_t skip, std::size_t begin,
                  std::size_t end, std::uint32_t threads) {
        if (!claimed_) raise("LeaseExpiredError", "this copy has been made, or was given up");
        const std::span<const Target> targets = std::span(targets_).subspan(begin, end - begin);
        const bool summed = std::ranges::any_of(targets, [](const Target& target) { return target.summed; });
        std::vector<std::uint32_t> sums(summed ? targets.size() : 0);
        std::vector<std::byte*> chunks;
        for (const Target& target : targets) chunks.push_back(target.bytes);
        {
            const Unlocked unlocked;
            pool::copy_chunks(plan, ids, chunks, direction_, skip, sums, std::min(threads, kMostThreads));
        }
        nb::list failed;
        for (std::size_t k = 0; k < targets.size(); ++k) {
            const Target& target = targets[k];
            if (!target.summed) continue;
            if (direction_ == Direction::gather) {
                store_of(target).gathers.checksums[target.index] = sums[k];
            } else if (!target.of->core->is_intact(target.look(), target.of->part, sums[k])) {
                damaged_.push_back(begin + k);
                failed.append(target.index);
            }
        }
        if (end == targets_.size()) release(summed ? State::done : State::none);
        return failed;
    }

    static StoreLease& store_of(const Target& target) { return static_cast<StoreLease&>(*target.of); }

    void add(nb::object object) {
        if (!nb::isinstance<Slot>(object))
            raise("ArgumentTypeError",
                  std::string("slots must be a lease, or slots of one, not ") + Py_TYPE(object.ptr())->tp_name);
        const auto& slot = nb::cast<const Slot&>(object);
        const bool gathers = direction_ == Direction::gather;
        if (slot.writable != gathers)
            raise("ArgumentError", gathers ? "slots are of a retrieve, and gather_paged fills those of a store"
                                           : "slots are of a store, and scatter_paged reads those of a retrieve");
        PoolLease& lease = *slot.of;
        const nb::object& owner =
            gathers ? static_cast<StoreLease&>(lease).client : static_cast<RetrieveLease&>(lease).client;
        const auto& client = nb::cast<const PoolClient&>(owner);
        client.usable();
        const bool given_back = gathers && static_cast<StoreLease&>(lease).is_filled();
        if (lease.ended || given_back || slot.index >= lease.looks.size() ||
            lease.looks[slot.index].entry == pool::kNoEntry)
            raise("LeaseExpiredError", client.context() + ": chunk " + std::to_string(slot.index) +
                                           " has been given back: copy before its lease is committed or aborted");
        if (lease.chunk_bytes != plan_.chunk_bytes())
            raise("LayoutError", client.context() + ": its chunks have " + std::to_string(lease.chunk_bytes) +
                                     " bytes, and this layout says " + std::to_string(plan_.chunk_bytes()) +
                                     ": connect the client with the layout that it copies by");
        const pool::Client& core = *lease.core;
        const std::uint32_t entry = lease.looks[slot.index].entry;
        std::byte* const memory =
            gathers ? lease.core->memory().writable_data() : const_cast<std::byte*>(core.memory().data());
        const bool summed =
            gathers
                ? core.memory().header().checksums != 0
                : client.verify && core.memory().index().entries[entry].checked.load(std::memory_order_relaxed) != 0;
        targets_.push_back({slot.lease, &lease, slot.index, memory + core.offset(entry, lease.part), summed});
    }

    void check_ids(bool partial) {
        if (targets_.empty() && ids_.empty()) return;
        const std::uint64_t tokens = targets_.size() * plan_.chunk_tokens();
        const std::uint64_t wanted = (tokens + plan_.block_tokens() - 1) / plan_.block_tokens();
        const bool enough = ids_.size() * plan_.block_tokens() + plan_.chunk_tokens() > tokens;
        if (ids_.size() > wanted || (ids_.size() < wanted && !(partial && enough)))
            raise("ArgumentError", "block_ids has " + std::to_string(ids_.size()) + " blocks, and " +
                                       std::to_string(targets_.size()) + " chunks of this layout have " +
                                       std::to_string(wanted) +
                                       (partial ? "; only the last chunk may have fewer" : ""));
        if (tokens != 0 && plan_.chunk_tokens() % plan_.block_tokens() != 0)
            for (std::size_t k = 1; k < targets_.size(); ++k)
                if (targets_[k].index != targets_[k - 1].index + 1)
                    raise("ArgumentError",
                          "chunks of this layout end within a block, so that slots must be of keys in a row: copy each "
                          "run of them by itself");
        // What is written must be written once.
        if (direction_ == Direction::scatter) {
            std::vector<std::int64_t> sorted = ids_;
            std::ranges::sort(sorted);
            if (const auto twice = std::ranges::adjacent_find(sorted); twice != sorted.end())
                raise("ArgumentError", "block_ids has block " + std::to_string(*twice) +
                                           " twice, and two chunks cannot be scattered to one block");
        }
    }

    void claim() {
        std::size_t k = 0;
        for (; direction_ == Direction::gather && k < targets_.size(); ++k) {
            Gathers& gathers = store_of(targets_[k]).gathers;
            const std::lock_guard guard(gathers.mutex);
            if (gathers.states[targets_[k].index] == State::running) break;
            gathers.states[targets_[k].index] = State::running;
            ++gathers.running;
        }
        const bool all = direction_ == Direction::scatter || k == targets_.size();
        const std::uint32_t index = all ? 0 : targets_[k].index;
        if (!all) targets_.resize(k);
        for (const Target& target : targets_) target.of->held->show(target.index, target.of->looks[target.index]);
        claimed_ = true;
        if (all) return;
        release(State::none);
        raise("ArgumentError", "chunk " + std::to_string(index) +
                                   " is among the slots twice, or is being filled by another copy already");
    }

    void release(State state) noexcept {
        if (!claimed_) return;
        claimed_ = false;
        for (const Target& target : targets_) {
            if (direction_ == Direction::gather) {
                Gathers& gathers = store_of(target).gathers;
                const std::lock_guard guard(gathers.mutex);
                gathers.states[target.index] = state;
                if (--gathers.running == 0) gathers.ended.notify_all();
            }
            target.of->held->hide(target.index);
        }
    }

    nb::object plan_object_;
    const CopyPlan& plan_;
    Direction direction_;
    std::vector<std::int64_t> ids_;
    std::vector<Target> targets_;
    std::uint64_t skip_ = 0;
    bool claimed_ = false;
    std::vector<std::size_t> damaged_;
};

// What a copy can have of a lease: its slots, not compared with their checksums yet, since the copy does that.
nb::list unseen_slots(nb::handle lease) {
    nb::list slots;
    const bool writable = nb::isinstance<StoreLease>(lease);
    if (!writable && !nb::isinstance<RetrieveLease>(lease)) return slots;
    PoolLease& of = writable ? static_cast<PoolLease&>(nb::cast<StoreLease&>(lease))
                             : static_cast<PoolLease&>(nb::cast<RetrieveLease&>(lease));
    if (of.ended) raise("LeaseExpiredError", "these chunks have been given back: copy before the commit");
    check_has_part(of);
    if (writable) check_fills(nb::cast<StoreLease&>(lease));
    for (std::uint32_t i = 0; i < of.looks.size(); ++i)
        if (of.looks[i].entry != pool::kNoEntry) slots.append(make_slot(nb::borrow(lease), of, i, writable));
    return slots;
}

}  // namespace

void await_gathers(const PoolClient& client, StoreLease& lease) {
    constexpr std::chrono::milliseconds kSignals{50};  // how often signals are looked for
    Gathers& gathers = lease.gathers;
    for (bool running = true; running;) {
        {
            const Unlocked unlocked;
            std::unique_lock guard(gathers.mutex);
            running = !gathers.ended.wait_for(guard, kSignals, [&] { return gathers.running == 0; });
        }
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
    }
    const std::lock_guard guard(gathers.mutex);
    const auto failed = std::ranges::find(gathers.states, State::failed);
    if (failed != gathers.states.end() && !lease.committed)
        raise("PoolError", client.context() + ": commit_store: the copy into chunk " +
                               std::to_string(failed - gathers.states.begin()) +
                               " was cancelled or failed, so that it holds nothing: gather it again, or abort_store");
}

void add_copy_types(nb::module_& module) {
    nb::class_<CopyPlan>(module, "CopyPlan", "Where an engine's tensors have the rows of a chunk.")
        .def("__init__", &make_plan, "planes"_a, "n_blocks"_a, "block_tokens"_a, "chunk_tokens"_a)
        .def_prop_ro("chunk_bytes", &CopyPlan::chunk_bytes)
        .def_prop_ro("n_blocks", &CopyPlan::n_blocks);
    nb::class_<PoolCopy>(module, "PoolCopy", "One copy between an engine's tensors and chunks, which are held for it.")
        .def(nb::init<nb::object, nb::handle, nb::handle, bool, bool, nb::handle>(), "plan"_a, "block_ids"_a, "slots"_a,
             "gathers"_a, "partial"_a, "skip_tokens"_a)
        .def("run", &PoolCopy::run, "threads"_a)
        .def("run_staged", &PoolCopy::run_staged, "staging"_a, "begin"_a, "end"_a, "threads"_a)
        .def("give_up", &PoolCopy::give_up)
        .def("report", &PoolCopy::report)
        .def_prop_ro("damaged", &PoolCopy::damaged);
    module.def("unseen_slots", &unseen_slots, "lease"_a);
    // A copy between tensors and plain memory, for the trial when a layout is registered.
    module.def(
        "copy_block",
        [](const CopyPlan& plan, std::int64_t block, std::uint64_t address, bool gathers) {
            std::byte* const chunk = reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(address));
            const Unlocked unlocked;
            pool::copy_chunks(plan, {&block, 1}, {&chunk, 1}, gathers ? Direction::gather : Direction::scatter, 0, {},
                              1);
        },
        "plan"_a, "block"_a, "address"_a, "gathers"_a);
}

}  // namespace ringcast::bindings
