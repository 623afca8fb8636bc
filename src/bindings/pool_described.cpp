// What a pool is, what is in it and who uses it: the dict of which ringcast.pool makes PoolStats.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstdio>
#include <unordered_map>
#include <vector>

#include "locks.hpp"
#include "platform/clock.hpp"
#include "platform/process.hpp"
#include "pool/hit_rate_curve.hpp"
#include "pool/journal.hpp"
#include "pool_memory.hpp"
#include "py_errors.hpp"
#include "unlocked.hpp"

namespace nb = nanobind;

namespace ringcast::bindings {

using pool::PoolMemory;
using pool::SeatCounters;
using pool::TierWords;

namespace {

using Words = pool::ServerWords<platform::Native>;

constexpr std::size_t kPinsShown = 8;

constexpr std::tuple kFigures{std::pair{"used_bytes", &Words::used_bytes},
                              std::pair{"chunks", &Words::chunks},
                              std::pair{"reserved", &Words::reserved},
                              std::pair{"limbo", &Words::limbo},
                              std::pair{"quarantined", &Words::quarantined},
                              std::pair{"stored", &Words::stored},
                              std::pair{"evicted", &Words::evicted},
                              std::pair{"aborted", &Words::aborted},
                              std::pair{"cleared", &Words::cleared},
                              std::pair{"no_memory", &Words::no_memory},
                              std::pair{"full_buckets", &Words::full_buckets},
                              std::pair{"refused", &Words::refused},
                              std::pair{"curve_accesses", &Words::curve_accesses},
                              std::pair{"curve_lost", &Words::curve_lost},
                              std::pair{"spaces_without_room", &Words::spaces_without_room}};
constexpr std::tuple kCounters{std::pair{"lookups", &SeatCounters::lookups},
                               std::pair{"keys_looked_up", &SeatCounters::keys_looked_up},
                               std::pair{"keys_found", &SeatCounters::keys_found},
                               std::pair{"retrieves", &SeatCounters::retrieves},
                               std::pair{"keys_retrieved", &SeatCounters::keys_retrieved},
                               std::pair{"hits", &SeatCounters::hits}};
constexpr std::tuple kTierFigures{
    std::pair{"slots", &TierWords::slots},       std::pair{"chunks", &TierWords::copies},
    std::pair{"stored", &TierWords::stored},     std::pair{"stored_bytes", &TierWords::stored_bytes},
    std::pair{"store_ns", &TierWords::store_ns}, std::pair{"wanted", &TierWords::wanted},
    std::pair{"hits", &TierWords::loaded},       std::pair{"loaded_bytes", &TierWords::loaded_bytes},
    std::pair{"load_ns", &TierWords::load_ns},   std::pair{"dropped", &TierWords::dropped},
    std::pair{"failed", &TierWords::failed},     std::pair{"corrupt", &TierWords::corrupt},
    std::pair{"late", &TierWords::late},         std::pair{"waiting", &TierWords::waiting},
    std::pair{"running", &TierWords::running}};

std::string hex_of(std::uint64_t digest_begin) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (int i = 0; i < 8; ++i, digest_begin >>= 8) {
        text += kDigits[digest_begin >> 4 & 0xf];
        text += kDigits[digest_begin & 0xf];
    }
    return text;
}

struct Usage {
    std::uint64_t chunks = 0;
    std::uint64_t bytes = 0;
};
using Usages = std::unordered_map<std::uint64_t, Usage>;

Usages usages_of(const PoolMemory& memory) {
    Usages used;
    const Unlocked unlocked;
    for_each_present(memory, [&](const PoolChunk& chunk) {
        Usage& usage = used[chunk.tenant];
        ++usage.chunks;
        usage.bytes += chunk.block_length;
    });
    return used;
}

nb::list tenants_of(const PoolMemory& memory) {
    const auto& words = memory.words();
    const Usages used = usages_of(memory);
    std::unordered_map<std::uint64_t, std::uint64_t> quotas;
    for (std::uint32_t i = 0; i < std::min(of(words.n_quotas), pool::kQuotasShown); ++i)
        quotas[of(words.quotas[i].tenant)] = of(words.quotas[i].bytes);
    std::vector<std::pair<std::uint64_t, Usage>> rows(used.begin(), used.end());
    for (const auto& [tenant, quota] : quotas)
        if (!used.contains(tenant)) rows.emplace_back(tenant, Usage{});
    std::ranges::sort(rows, [](const auto& a, const auto& b) {
        return a.second.bytes != b.second.bytes ? a.second.bytes > b.second.bytes : a.first < b.first;
    });
    nb::list list;
    for (const auto& [tenant, usage] : rows) {
        nb::dict row;
        row["salt_digest"] = hex_of(tenant);
        row["chunks"] = usage.chunks;
        row["used_bytes"] = usage.bytes;
        const auto quota = quotas.find(tenant);
        row["quota"] = quota == quotas.end() ? nb::object(nb::none()) : nb::object(nb::int_(quota->second));
        list.append(row);
    }
    return list;
}

nb::dict curve_of(const PoolMemory& memory) {
    const auto& words = memory.words();
    nb::dict curve;
    if (of(words.curve_accesses) == 0) return curve;
    for (std::size_t policy = 0; policy < pool::kPolicies; ++policy) {
        nb::dict row;
        for (std::size_t factor = 0; factor < pool::kCurveFactors; ++factor) {
            char name[16];
            std::snprintf(name, sizeof name, "%g", pool::HitRateCurve::kFactors[factor]);
            row[name] = of(words.curve[policy][factor]) / 1e6;
        }
        curve[pool::name_of(pool::HitRateCurve::kPolicies[policy])] = row;
    }
    return curve;
}

nb::list tiers_of(const PoolMemory& memory) {
    const auto& words = memory.words();
    nb::list list;
    for (std::uint32_t i = 0; i < std::min(of(words.n_tiers), pool::kMostTiers); ++i) {
        const TierWords& tier = words.tiers[i];
        nb::dict row;
        row["name"] = ringcast::text_of(tier.name, sizeof tier.name);
        row["local"] = of(tier.local) != 0;
        put(row, tier, kTierFigures);
        list.append(row);
    }
    return list;
}

struct Held {
    std::uint32_t seat;
    std::uint32_t entry;
    std::uint32_t age_ms;
};

void name_client(nb::dict& into, const PoolMemory& memory, std::uint32_t i) {
    const auto& seat = memory.seat(i);
    into["seat"] = i;
    into["worker_id"] = ringcast::text_of(seat.worker_id, sizeof seat.worker_id);
    into["pid"] = of(seat.pid);
}

// Whoever has a seat. What they count is added to `total`, what the living ones hold to `held`.
nb::list clients_of(const PoolMemory& memory, SeatCounters& total, std::vector<Held>& held) {
    const auto& header = memory.header();
    const std::uint32_t now = platform::coarse_milliseconds();
    nb::list clients;
    for (std::uint32_t i = 0; i < header.n_seats; ++i) {
        const auto& seat = memory.seat(i);
        const auto state = pool::seat_state(seat.state.load(std::memory_order_acquire));
        if (state == pool::PoolSeatState::vacant) continue;
        total.add(seat.counters);
        const bool alive = memory.locks().is_held_by_another(seat_lock(i));
        const std::uint32_t n_pins = std::min(of(seat.pins_used), header.n_pins);
        std::uint32_t pins = 0;
        std::uint32_t oldest = 0;
        for (std::uint32_t k = 0; k < n_pins; ++k) {
            const std::uint64_t pin = of(seat.pins[k]);
            if (pin == 0) continue;
            ++pins;
            const std::uint32_t age = now - of(pool::pinned_since(seat, header.n_pins)[k]);
            oldest = std::max(oldest, age);
            if (alive && pool::pinned_entry(pin) < header.n_entries) held.push_back({i, pool::pinned_entry(pin), age});
        }
        nb::dict client;
        name_client(client, memory, i);
        client["forked"] = state == pool::PoolSeatState::inherited;
        client["alive"] = alive;
        client["since_ns"] = of(seat.since_ns);
        client["pins"] = pins;
        client["oldest_pin_s"] = oldest / 1e3;
        put(client, seat.counters, kCounters);
        clients.append(client);
    }
    return clients;
}

nb::list oldest_of(const PoolMemory& memory, std::vector<Held>& held) {
    const std::size_t shown = std::min(kPinsShown, held.size());
    std::ranges::partial_sort(held, held.begin() + static_cast<std::ptrdiff_t>(shown), std::ranges::greater{},
                              &Held::age_ms);
    nb::list pins;
    for (std::size_t i = 0; i < shown; ++i) {
        nb::dict pin;
        name_client(pin, memory, held[i].seat);
        pin["age_s"] = held[i].age_ms / 1e3;
        const pool::Digest key = memory.index().digest_of(held[i].entry);
        pin["key"] = hex_of(key.words[0]) + hex_of(key.words[1]) + hex_of(key.words[2]) + hex_of(key.words[3]);
        pins.append(pin);
    }
    return pins;
}

}  // namespace

const char* server_state(const PoolMemory& memory) {
    const auto& words = memory.words();
    if (!memory.server_alive()) return "gone";
    const auto state = platform::process_state(of(words.pid), of(words.pid_namespace));
    return state == platform::ProcessState::stopped ? "stopped" : "living";
}

nb::dict described(const PoolMemory& memory) {
    const auto& header = memory.header();
    const auto& words = memory.words();
    nb::dict all;
    all["name"] = ringcast::text_of(header.user_name, sizeof header.user_name);
    all["segment"] = memory.name();
    all["epoch"] = of(words.epoch);
    all["capacity"] = header.capacity;
    all["entries"] = header.n_entries;
    all["policy"] = pool::name_of(static_cast<pool::PolicyKind>(of(words.policy)));
    all["kept"] = header.kept != 0;
    all["checksums"] = header.checksums != 0;
    all["created_at_ns"] = header.created_at_ns;
    all["closed"] = of(words.life) == pool::PoolLife::closed;
    all["server_pid"] = of(words.pid);
    all["server"] = server_state(memory);
    put(all, words, kFigures);
    all["events"] = pool::events_so_far(words);
    all["tenants"] = tenants_of(memory);
    all["tiers"] = tiers_of(memory);
    all["curve"] = curve_of(memory);
    all["spaces"] = static_cast<std::uint64_t>(
        std::ranges::count_if(memory.spaces(), [](const auto& record) { return of(record.written) != 0; }));
    SeatCounters total{};
    total.add(words.past);
    std::vector<Held> held;
    all["clients"] = clients_of(memory, total, held);
    all["oldest_pins"] = oldest_of(memory, held);
    put(all, total, kCounters);
    return all;
}

}  // namespace ringcast::bindings
