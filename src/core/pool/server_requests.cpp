// What a server does for each kind of request, which has been copied into `request_`.
#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "pool/server.hpp"

namespace ringcast::pool {

namespace {

// Keys of a request whose memory is fetched at a time.
constexpr std::uint32_t kFetched = 16;
constexpr Owner kServer{.seat = kServersOwn, .incarnation = 0, .slot = 0, .request = 0};

// Four texts with their lengths, two numbers, and a byte: docs/keys.md.
bool is_space(std::span<const std::byte> bytes) {
    for (int text = 0; text < 4; ++text) {
        std::uint32_t length = 0;
        if (bytes.size() < sizeof length) return false;
        std::memcpy(&length, bytes.data(), sizeof length);
        bytes = bytes.subspan(sizeof length);
        if (length > bytes.size()) return false;
        bytes = bytes.subspan(length);
    }
    return bytes.size() == 2 * sizeof(std::uint32_t) + 1;
}
}  // namespace

// `no`: the request makes no sense.
Server::Done Server::perform(NativeMailSlot& slot) {
    const Request& r = request_;
    if (r.count > kBatch) return Done::no;
    const auto say = [&](std::uint32_t i, Status status) {
        slot.items[i].status.store(static_cast<std::uint32_t>(status), std::memory_order_relaxed);
    };
    switch (r.kind) {
        case Ask::reserve:
            if (r.count == 0 || !has_parts(r.length, r.parts)) return Done::no;
            perform_reserve(slot);
            return Done::yes;
        case Ask::commit:
            for (std::uint32_t i = 0; i < r.count; ++i)
                say(i, keeper_.commit(r.owner, r.items[i].entry, r.items[i].generation, r.parts,
                                      r.checked ? &r.items[i].checksum : nullptr));
            return Done::yes;
        case Ask::abort:
            for (std::uint32_t i = 0; i < r.count; ++i)
                say(i, keeper_.abort(r.owner, r.items[i].entry, r.items[i].generation));
            return Done::yes;
        case Ask::clear:
            return perform_clear();
        case Ask::suspect:
            for (std::uint32_t i = 0; i < r.count; ++i)
                say(i, keeper_.suspect(r.items[i].entry, r.items[i].generation));
            return Done::yes;
        case Ask::describe:
            return perform_describe() ? Done::yes : Done::no;
        case Ask::promote:
            if (r.count == 0 || !has_parts(r.length, r.parts)) return Done::no;
            return perform_promote();
        case Ask::join:
            return perform_join(slot) ? Done::yes : Done::no;
    }
    return Done::no;
}

// What the request says of its chunks, which `owner` fills.
Storing Server::asked_by(const Owner& owner) const noexcept {
    const Request& r = request_;
    return {.owner = owner,
            .length = r.length,
            .parts = r.parts,
            .tenant = r.tenant,
            .space = r.space,
            .expected = r.count};
}

Server::Done Server::perform_clear() {
    keeper_.clear(request_.has_parent ? &request_.space : nullptr);
    if (!tiers_->any()) return Done::yes;
    tiers_->clear(!request_.has_parent, [this, request = defer()](bool certain) {
        answer_deferred(request, certain ? Refusal::none : Refusal::not_cleared);
    });
    return Done::later;
}

// What of it is in tiers comes into memory, or will: its client sees that in the index, and is answered when all of it can be
// seen there.
Server::Done Server::perform_promote() {
    const Request& r = request_;
    Storing storing = asked_by(kServer);
    std::uint32_t parent = kNoEntry;
    if (r.has_parent && r.chained) {
        parent = keeper_.entry_of(r.parent);
        if (parent == kNoEntry) return Done::yes;
    }
    std::vector<Digest> unknown;
    for (std::uint32_t i = 0; i < r.count; ++i, --storing.expected) {
        const Digest& key = r.items[i].key;
        const std::uint32_t e = keeper_.entry_of(key);
        if (e == kNoEntry) {
            if (r.chained) {  // so is what comes behind it
                for (std::uint32_t k = i; k < r.count; ++k) unknown.push_back(r.items[k].key);
                break;
            }
            unknown.push_back(key);
            continue;
        }
        if (keeper_.state_of_entry(e) == EntryState::tiered && tiers_->bring(storing, e) != Status::pending &&
            r.chained)
            return Done::yes;
        parent = e;
    }
    if (unknown.empty() || !tiers_->asks()) return Done::yes;
    const std::uint32_t generation = parent == kNoEntry ? 0 : keeper_.generation_of_entry(parent);
    auto wanted = std::make_shared<Wanted>(
        Wanted{storing, r.chained, unknown, r.chained ? parent : kNoEntry, generation, defer()});
    tiers_->find(std::move(unknown), r.chained, [this, wanted](std::span<const std::uint32_t> found) {
        bring(*wanted, found);
        answer_deferred(wanted->request, Refusal::none);
    });
    return Done::later;
}

// `found`: of each key 1 + the tier that has it, or 0. Of a chain, as far as it is there without a gap.
void Server::bring(const Wanted& wanted, std::span<const std::uint32_t> found) {
    std::uint32_t before = wanted.parent;
    const bool is_there = before == kNoEntry || (keeper_.generation_of_entry(before) == wanted.generation &&
                                                 (keeper_.state_of_entry(before) == EntryState::present ||
                                                  keeper_.state_of_entry(before) == EntryState::reserved));
    for (std::size_t i = 0; i < found.size() && is_there; ++i) {
        if (found[i] == 0) {
            if (wanted.chained) break;
            continue;
        }
        const auto got = tiers_->bring_from(found[i] - 1, wanted.storing, wanted.keys[i], before);
        if (!wanted.chained) continue;
        if (got.entry == kNoEntry) break;
        before = got.entry;
    }
}

void Server::perform_reserve(NativeMailSlot& slot) {
    const Request& r = request_;
    Storing storing = asked_by(r.owner);
    std::uint32_t parent = kNoEntry;
    bool orphaned = false;
    Status without_parent = Status::orphan;
    missed_.clear();
    if (r.has_parent && r.chained) {
        parent = keeper_.entry_of(r.parent);
        orphaned = parent == kNoEntry;
        if (!orphaned && keeper_.state_of_entry(parent) == EntryState::tiered) {
            // It comes into memory, where it is pending as if somebody else stored it.
            const Status brought = tiers_->bring(asked_by(kServer), parent);
            orphaned = brought != Status::pending;
            if (brought == Status::no_memory) without_parent = brought;
        }
    }
    for (std::uint32_t i = 0; i < r.count; ++i, --storing.expected) {
        if (i % kFetched == 0)
            for (std::uint32_t k = i; k < std::min(i + kFetched, r.count); ++k) keeper_.fetch(r.items[k].key);
        MailItem& item = slot.items[i];
        Keeper::Reserved got{without_parent};
        if (!orphaned) got = keeper_.reserve(storing, r.items[i].key, parent);
        if (got.status == Status::reserved) missed_.push_back(got.entry);
        if (r.chained) {
            parent = got.entry;
            orphaned = got.entry == kNoEntry;
            without_parent = Status::orphan;
        }
        item.status.store(static_cast<std::uint32_t>(got.status), std::memory_order_relaxed);
        item.entry.store(got.entry, std::memory_order_relaxed);
        item.generation.store(got.entry == kNoEntry ? 0 : keeper_.generation_of_entry(got.entry),
                              std::memory_order_relaxed);
    }
}

// One part of all of the chunks, or of none: `cached` is said of those that alone could have been had. Of a `pending` one
// the answer's entry is the seat of who has it.
bool Server::perform_join(NativeMailSlot& slot) {
    const Request& r = request_;
    if (r.parts >= kMaxParts) return false;
    std::array<Status, kBatch> may;
    bool all = true;
    for (std::uint32_t i = 0; i < r.count; ++i) {
        const Request::Item& item = r.items[i];
        may[i] = keeper_.may_join(r.owner, item.entry, item.generation, r.parts);
        all = all && may[i] == Status::reserved;
        if (may[i] == Status::pending)
            slot.items[i].entry.store(keeper_.who_joined(item.entry, r.parts), std::memory_order_relaxed);
    }
    for (std::uint32_t i = 0; i < r.count; ++i) {
        if (all) keeper_.join(r.owner, r.items[i].entry, r.parts);
        if (!all && may[i] == Status::reserved) may[i] = Status::cached;
        slot.items[i].status.store(static_cast<std::uint32_t>(may[i]), std::memory_order_relaxed);
    }
    return true;
}

// A namespace: its digest is `parent`, the salt's the first key, and the keys behind that are the bytes. Who stores says what
// he stores; a record that is not one is refused, and whether it tells the truth only matters to whoever reads it.
bool Server::perform_describe() {
    const Request& r = request_;
    if (!r.has_parent || r.length > kSpaceBytes || r.count != 1 + (r.length + kDigestBytes - 1) / kDigestBytes)
        return false;
    std::array<std::byte, (kBatch + 1) * kDigestBytes> bytes;
    for (std::uint32_t i = 1; i < r.count; ++i)
        std::memcpy(&bytes[(i - 1) * kDigestBytes], &r.items[i].key, kDigestBytes);
    if (!is_space({bytes.data(), r.length})) return false;
    for (SpaceRecord& record : memory_->spaces()) {
        if (record.written.load(std::memory_order_relaxed) != 0) {
            if (record.digest == r.parent) return true;
            continue;
        }
        record.length = r.length;
        record.digest = r.parent;
        record.salt_digest = r.items[0].key;
        std::memcpy(record.bytes, bytes.data(), r.length);
        Native::reached(FaultPoint::pool_space_written);
        record.written.store(1, std::memory_order_release);  // release [space]
        return true;
    }
    memory_->words().spaces_without_room.fetch_add(1, std::memory_order_relaxed);
    return true;
}

// What was reserved had been missed.
void Server::note_misses() {
    if (request_.kind != Ask::reserve || missed_.empty()) return;
    if (!meter_->begun()) {
        const PoolHeader& header = memory_->header();
        const std::uint64_t chunks = std::clamp<std::uint64_t>(header.capacity / request_.length, 1, header.n_entries);
        meter_->begin(static_cast<std::uint32_t>(chunks));
    }
    const auto note = [&](std::size_t begin, std::size_t end) {
        std::optional<Digest> after;
        keeper_.for_each_ancestor(missed_[begin], [&](std::uint32_t e) {
            if (meter_->samples(keeper_.key_of(e))) after = keeper_.key_of(e);
            return !after;
        });
        accessed_.clear();
        for (std::size_t i = begin; i < end; ++i) accessed_.push_back(keeper_.key_of(missed_[i]));
        meter_->note(accessed_, after);
    };
    if (request_.chained) return note(0, missed_.size());
    for (std::size_t i = 0; i < missed_.size(); ++i) note(i, i + 1);
}

}  // namespace ringcast::pool
