// Entries in a few queues, of which only those that have no child can be taken: the coldest leaf of a queue, at any time.
//
// An entry knows how many children it has, and a heap for each queue and tenant holds the leaves alone, by the time of their
// last use. So a chain of thousands is one leaf: using its other entries is one store each, and no search passes over them.
// An entry that loses its last child joins its heap with the time that it had all along.
//
// Using or adding a leaf and taking the coldest cost a logarithm of the number of leaves; a chain that is stored or that goes
// from its end moves at the ends of the heap. Memory is reserved when the structure is made, but for the heaps, which grow to
// what they have needed at most.
#pragma once

#include <cstdint>
#include <vector>

namespace ringcast::pool {

inline constexpr std::uint32_t kNoEntry = 0xffff'ffff;
inline constexpr std::uint32_t kAnyTenant = 0xffff'ffff;

class Leaves {
public:
    // For entries from 0 to `entries` - 1, in so many queues, of so many tenants.
    Leaves(std::uint32_t entries, std::uint32_t queues, std::uint32_t tenants);

    // `entry` is the hottest of its queue from now on. Its parent may be added later than itself.
    void add(std::uint32_t entry, std::uint32_t parent, std::uint32_t queue, std::uint32_t tenant);
    // `entry` was used: it is the hottest of that queue.
    void move(std::uint32_t entry, std::uint32_t queue);
    // The coldest leaf in a queue, of any tenant or of one; kNoEntry if there is none that was not set aside.
    std::uint32_t coldest(std::uint32_t queue, std::uint32_t tenant) const;

    // A leaf is passed over until it is put back, with the time of its last use.
    void set_aside(std::uint32_t entry);
    void put_back(std::uint32_t entry);

    // The leaf `entry` is in no queue and nobody's child any more. It may come back as it was, until it is added anew.
    void take(std::uint32_t entry);
    void restore(std::uint32_t entry);

    // It will not come back. Returns the queue it was in before it was taken; kNowhere if it was in none.
    std::uint32_t drop(std::uint32_t entry);

    bool has(std::uint32_t entry) const { return nodes_[entry].queue != kNowhere; }
    bool is_leaf(std::uint32_t entry) const { return nodes_[entry].children == 0; }
    // The queue it is in, or was in when it was taken.
    std::uint32_t queue_of(std::uint32_t entry) const { return nodes_[entry].last_queue; }
    std::uint32_t size(std::uint32_t queue) const { return sizes_[queue]; }

    static constexpr std::uint8_t kNowhere = 0xff;

private:
    static constexpr std::uint32_t kOut = 0xffff'ffff;

    struct Node {
        std::uint64_t used = 0;  // the clock at its last use
        std::uint32_t parent = kNoEntry;
        std::uint32_t children = 0;
        std::uint32_t place = kOut;  // in its heap
        std::uint32_t tenant = 0;
        std::uint8_t queue = kNowhere;
        std::uint8_t last_queue = kNowhere;  // the same, and still known when it was taken
        bool aside = false;
    };
    using Heap = std::vector<std::uint32_t>;

    Heap& heap_of(const Node& node) { return heaps_[node.queue * tenants_ + node.tenant]; }
    void enter(std::uint32_t entry);
    void leave(std::uint32_t entry);
    void rise(Heap& heap, std::uint32_t place);
    void sink(Heap& heap, std::uint32_t place);
    void put(Heap& heap, std::uint32_t place, std::uint32_t entry) {
        heap[place] = entry;
        nodes_[entry].place = place;
    }

    std::uint32_t tenants_;
    std::uint64_t clock_ = 0;
    std::vector<Node> nodes_;
    std::vector<Heap> heaps_;
    std::vector<std::uint32_t> sizes_;  // of queues, leaves or not
};

}  // namespace ringcast::pool
