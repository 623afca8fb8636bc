#include "memory.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace model {

void Memory::reset(const std::vector<Value>& initial) {
    used_ = 0;
    for (const Value& value : initial) add(value);
    in_locks_ = {};
    threads_ = {};
    fences_ = {};
}

void Memory::add(const Value& initial) {
    Location& location = locations_[used_];
    location.stores.clear();
    location.stores.push_back(Store{.value = initial, .view = {}, .site = {}});
    location.read_at = {};
    in_kernel_[used_++] = {};
}

void Memory::tick(std::uint8_t thread) {
    ThreadViews& views = threads_[thread];
    if (++views.now.clock[thread] == UINT8_MAX) {
        std::fputs("model: a thread took more than 254 steps\n", stderr);
        std::abort();
    }
    views.acquire.clock[thread] = views.now.clock[thread];
}

void Memory::read(std::uint8_t thread, std::uint32_t id, std::uint8_t position, std::memory_order order) {
    ThreadViews& views = threads_[thread];
    const View& carried = locations_[id].stores[position].view;
    views.now.seen[id] = std::max(views.now.seen[id], position);
    if (acquires(order)) views.now.join(carried);
    views.acquire.join(carried);
    views.acquire.seen[id] = std::max(views.acquire.seen[id], position);
}

Store& Memory::write(std::uint8_t thread, std::uint32_t id, std::uint8_t position, const Value& value,
                     std::memory_order order, bool updates, Site site) {
    Location& location = locations_[id];
    const auto at = static_cast<std::uint8_t>(position + 1);
    if (at < location.stores.size()) {
        // Every view of later stores moves with them.
        const auto shift = [&](View& view) {
            view.seen[id] = static_cast<std::uint8_t>(view.seen[id] + (view.seen[id] >= at));
        };
        for (std::size_t i = 0; i < used_; ++i) {
            for (Store& store : locations_[i].stores) shift(store.view);
            shift(in_kernel_[i]);
        }
        for (ThreadViews& views : threads_) {
            shift(views.now);
            shift(views.acquire);
            shift(views.release);
        }
        for (View& view : in_locks_) shift(view);
        shift(fences_);
    }
    ThreadViews& views = threads_[thread];
    Store store{.value = value,
                .view = releases(order) ? views.now : views.release,
                .thread = thread,
                .clock = views.now.clock[thread],
                .serial = static_cast<std::uint8_t>(location.stores.size()),
                .updates = updates,
                .site = site};
    if (updates) store.view.join(location.stores[position].view);
    store.view.seen[id] = at;
    views.now.seen[id] = views.acquire.seen[id] = at;
    return *location.stores.insert(location.stores.begin() + at, store);
}

void Memory::fence(std::uint8_t thread, std::memory_order order) {
    ThreadViews& views = threads_[thread];
    if (acquires(order)) views.now = views.acquire;
    if (order == std::memory_order_seq_cst) {
        views.now.join_seen(fences_);
        fences_.join_seen(views.now);
        views.acquire.join_seen(views.now);
    }
    if (releases(order)) views.release = views.now;
}

void Memory::see_everything(std::uint8_t thread) {
    ThreadViews& views = threads_[thread];
    for (std::size_t i = 0; i < used_; ++i)
        views.now.seen[i] = views.acquire.seen[i] = static_cast<std::uint8_t>(locations_[i].stores.size() - 1);
}

void Memory::order_after_lock(std::uint8_t thread, std::size_t which) {
    threads_[thread].now.join(in_locks_[which]);
    threads_[thread].acquire.join(in_locks_[which]);
}

}  // namespace model
