// The 32 bytes that name a chunk, a namespace or a tenant: SHA-256, so any eight of them are as good as random.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace ringcast::pool {

struct Digest {
    std::array<std::uint64_t, 4> words;  // its bytes in their order, whatever the processor's

    friend bool operator==(const Digest&, const Digest&) = default;
};

inline constexpr std::size_t kDigestBytes = sizeof(Digest);
static_assert(kDigestBytes == 32 && std::is_trivially_copyable_v<Digest>);

}  // namespace ringcast::pool
