#include "pool/leaves.hpp"

#include <cassert>
#include <utility>

namespace ringcast::pool {

Leaves::Leaves(std::uint32_t entries, std::uint32_t queues, std::uint32_t tenants)
    : tenants_(tenants), nodes_(entries), heaps_(std::size_t{queues} * tenants), sizes_(queues) {}

void Leaves::add(std::uint32_t entry, std::uint32_t parent, std::uint32_t queue, std::uint32_t tenant) {
    Node& node = nodes_[entry];
    assert(node.queue == kNowhere && queue < sizes_.size() && tenant < tenants_);
    node.used = ++clock_;
    node.parent = parent;
    node.tenant = tenant;
    node.queue = node.last_queue = static_cast<std::uint8_t>(queue);
    ++sizes_[queue];
    if (node.children == 0) enter(entry);
    if (parent != kNoEntry && ++nodes_[parent].children == 1) leave(parent);
}

void Leaves::move(std::uint32_t entry, std::uint32_t queue) {
    Node& node = nodes_[entry];
    node.used = ++clock_;
    if (queue == node.queue) {
        if (node.place != kOut) sink(heap_of(node), node.place);
        return;
    }
    const bool listed = node.place != kOut;
    leave(entry);
    --sizes_[node.queue];
    ++sizes_[queue];
    node.queue = node.last_queue = static_cast<std::uint8_t>(queue);
    if (listed) enter(entry);
}

std::uint32_t Leaves::coldest(std::uint32_t queue, std::uint32_t tenant) const {
    const bool any = tenant == kAnyTenant;
    std::uint32_t found = kNoEntry;
    for (std::uint32_t of = any ? 0 : tenant; of < (any ? tenants_ : tenant + 1); ++of) {
        const Heap& heap = heaps_[std::size_t{queue} * tenants_ + of];
        if (!heap.empty() && (found == kNoEntry || nodes_[heap.front()].used < nodes_[found].used))
            found = heap.front();
    }
    return found;
}

void Leaves::set_aside(std::uint32_t entry) {
    nodes_[entry].aside = true;
    leave(entry);
}

void Leaves::put_back(std::uint32_t entry) {
    Node& node = nodes_[entry];
    node.aside = false;
    if (node.queue != kNowhere && node.children == 0) enter(entry);
}

void Leaves::take(std::uint32_t entry) {
    Node& node = nodes_[entry];
    assert(node.queue != kNowhere && node.children == 0);
    leave(entry);
    --sizes_[node.queue];
    node.queue = kNowhere;
    if (node.parent != kNoEntry && --nodes_[node.parent].children == 0 && has(node.parent)) enter(node.parent);
}

void Leaves::restore(std::uint32_t entry) {
    Node& node = nodes_[entry];
    assert(node.queue == kNowhere && node.last_queue != kNowhere);
    node.queue = node.last_queue;
    ++sizes_[node.queue];
    if (node.children == 0) enter(entry);
    if (node.parent != kNoEntry && ++nodes_[node.parent].children == 1) leave(node.parent);
}

std::uint32_t Leaves::drop(std::uint32_t entry) { return std::exchange(nodes_[entry].last_queue, kNowhere); }

// Into its heap, unless it is set aside.
void Leaves::enter(std::uint32_t entry) {
    Node& node = nodes_[entry];
    if (node.aside || node.place != kOut) return;
    Heap& heap = heap_of(node);
    heap.push_back(entry);
    node.place = static_cast<std::uint32_t>(heap.size() - 1);
    rise(heap, node.place);
}

// Out of its heap, if it is there.
void Leaves::leave(std::uint32_t entry) {
    Node& node = nodes_[entry];
    if (node.place == kOut) return;
    Heap& heap = heap_of(node);
    const std::uint32_t place = node.place;
    const std::uint32_t last = heap.back();
    heap.pop_back();
    node.place = kOut;
    if (last == entry) return;
    put(heap, place, last);
    rise(heap, place);
    sink(heap, nodes_[last].place);
}

void Leaves::rise(Heap& heap, std::uint32_t place) {
    const std::uint32_t entry = heap[place];
    while (place != 0) {
        const std::uint32_t above = (place - 1) / 2;
        if (nodes_[heap[above]].used < nodes_[entry].used) break;
        put(heap, place, heap[above]);
        place = above;
    }
    put(heap, place, entry);
}

void Leaves::sink(Heap& heap, std::uint32_t place) {
    const std::uint32_t entry = heap[place];
    const auto size = static_cast<std::uint32_t>(heap.size());
    for (std::uint32_t below = 2 * place + 1; below < size; below = 2 * place + 1) {
        if (below + 1 < size && nodes_[heap[below + 1]].used < nodes_[heap[below]].used) ++below;
        if (nodes_[entry].used < nodes_[heap[below]].used) break;
        put(heap, place, heap[below]);
        place = below;
    }
    put(heap, place, entry);
}

}  // namespace ringcast::pool
