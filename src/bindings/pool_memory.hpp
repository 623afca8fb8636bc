// A pool's memory, for its server and for those who look from outside: what it is, what is in it and who uses it, as a dict.
#pragma once

#include <nanobind/nanobind.h>
#include <memory>

#include "figures.hpp"
#include "pool/memory.hpp"
#include "pool/parts.hpp"
#include "pool/server.hpp"

namespace ringcast::bindings {

nanobind::dict described(const pool::PoolMemory& memory);

// Mapped for as long as it is held, whoever closes the server meanwhile. Raises PoolClosedError, ForkedError.
std::shared_ptr<const pool::PoolMemory> memory_served_by(const pool::Server& server);

// "living", "stopped" or "gone".
const char* server_state(const pool::PoolMemory& memory);

// What a chunk is, copied while it was there.
struct PoolChunk {
    pool::Digest digest{};
    pool::Digest parent{};
    std::uint64_t tenant = 0;
    std::uint64_t space = 0;
    std::int64_t at_ns = 0;
    std::uint32_t length = 0;        // what was stored
    std::uint32_t block_length = 0;  // with the checksums of parts, as quotas count it
};

template <class Visit>
void for_each_present(const pool::PoolMemory& memory, Visit&& visit) {
    const auto& index = memory.index();
    for (std::uint32_t e = 0; e < index.n_entries; ++e) {
        const pool::NativeEntry& entry = index.entries[e];
        const std::uint64_t word = entry.word.load(std::memory_order_acquire);  // acquire [entry]
        if (pool::state_of(word) != pool::EntryState::present) continue;
        const pool::EntryRecord& record = memory.record(e);
        PoolChunk chunk{.digest = index.digest_of(e),
                        .tenant = of(record.tenant),
                        .space = of(record.space),
                        .at_ns = of(record.stored_at_ns),
                        .block_length = of(entry.length)};
        chunk.length = static_cast<std::uint32_t>(pool::payload_bytes(chunk.block_length, of(record.parts)));
        if (const std::uint32_t parent = of(entry.parent); parent != 0 && parent <= index.n_entries)
            chunk.parent = index.digest_of(parent - 1);
        const pool::Look look{e, word};
        if (index.confirmed({&look, 1}) == 1) visit(chunk);
    }
}

}  // namespace ringcast::bindings
