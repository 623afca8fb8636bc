// A tier: where chunks of a pool lie that are not, or not only, in its memory. One chunk a call, from any thread.
//
// A call blocks for as long as the bytes take, and never for another one's room: who must not wait has a thread for it. Of
// what a tier can lose or get wrong, none is an exception: it is an outcome, counted, and to its caller a chunk that is
// not there. Bytes are compared with their checksum before they count as found; what a load that found nothing has left in
// `into` is undefined.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "pool/digest.hpp"

namespace ringcast::pool {

enum class TierOutcome : std::uint8_t {
    done,
    absent,   // no chunk of this key, length and era
    refused,  // no room: the chunk is too long, or all slots are in use
    failed,   // the system has refused; last_error() says what
    corrupt,  // the bytes are not those that were stored; the copy has been dropped
};

// What a tier keeps with a chunk, for a server that finds it there and knows nothing else of it. Zeros: nothing.
struct TierNote {
    Digest parent{};
    std::uint64_t tenant = 0;
    std::uint64_t space = 0;
    std::uint32_t parts = 1;
    std::uint32_t unused = 0;  // no padding, which would be summed and written
};

class Tier {
public:
    virtual ~Tier() = default;

    // Done: the chunk is there, and is found again after the death of this process.
    virtual TierOutcome store(const Digest& key, std::span<const std::byte> bytes, const TierNote& note) noexcept = 0;
    // Done: `into`, as long as the chunk, holds its bytes.
    virtual TierOutcome load(const Digest& key, std::span<std::byte> into) noexcept = 0;
    virtual bool exists(const Digest& key) noexcept = 0;
    virtual TierOutcome remove(const Digest& key) noexcept = 0;
    // Chunks of eras before this one do not exist any more, power failing or not, once it has returned. Throws
    // Error(tier) if that cannot be promised; none of them is found here even so.
    virtual void clear(std::uint64_t era) = 0;
    virtual std::uint64_t era() const noexcept = 0;
    // How long a block of so many parts may be.
    virtual std::uint64_t most_bytes(std::uint32_t parts) const noexcept = 0;
    // What was stored before survives a loss of power.
    virtual TierOutcome sync() noexcept = 0;
    // Of the last call that failed.
    virtual std::string last_error() const = 0;
};

}  // namespace ringcast::pool
