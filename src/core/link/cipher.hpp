// The ciphers that a handshake leaves behind: one for each direction of a connection.
//
// What AES-256-GCM is done by is the affair of whoever makes one (Aead). Noise's nonce is four zero bytes and a counter; here
// a record's kind, below 256, stands in the four bytes, so that it is proven with the record. The counter alone makes each
// nonce new.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace ringcast::link {

inline constexpr std::size_t kTagBytes = 16;
inline constexpr std::size_t kKeyBytes = 32;
// After so many bytes a cipher changes its key: the bound of AES-GCM, which is 2^32 blocks of 16 bytes.
inline constexpr std::uint64_t kRekeyBytes = std::uint64_t{64} << 30;

using Nonce = std::array<std::byte, 12>;
using Key = std::array<std::byte, kKeyBytes>;
using Piece = std::span<const std::byte>;
using Pieces = std::span<const Piece>;  // of one payload, in their order

class Aead {
public:
    virtual ~Aead() = default;
    virtual void use(const Key& key) = 0;
    // `sealed` has room for all of `plain` and a tag, and overlaps none of it. `clear` is proven with it.
    virtual void seal(const Nonce& nonce, Pieces clear, Pieces plain, std::byte* sealed) = 0;
    // `sealed` ends with its tag; `plain` has room for the rest, and is the same memory or another. False if it was not made
    // with the same key, nonce, and `clear`; what is there is garbage then.
    [[nodiscard]] virtual bool open(const Nonce& nonce, Piece clear, Piece sealed, std::byte* plain) = 0;
};

// One thread at a time. The order of its calls is the order of the records.
class Cipher {
public:
    Cipher(std::unique_ptr<Aead> aead, const Key& key, std::uint64_t rekey_bytes = kRekeyBytes);

    // `sealed` has room for a tag, too, and ends with it; as in Aead.
    void seal(std::uint8_t kind, Pieces plain, std::byte* sealed);
    [[nodiscard]] bool open(std::uint8_t kind, Piece sealed, std::byte* plain);
    // Of what goes in the clear.
    void sign(std::uint8_t kind, Pieces clear, std::byte* tag);
    [[nodiscard]] bool verify(std::uint8_t kind, Piece clear, const std::byte* tag);
    const Key& key() const noexcept { return key_; }

private:
    Nonce nonce(std::uint8_t kind) const noexcept;
    void count(std::size_t nbytes);

    std::unique_ptr<Aead> aead_;
    Key key_;
    std::uint64_t rekey_bytes_;
    std::uint64_t counter_ = 0;
    std::uint64_t bytes_ = 0;  // under this key
};

}  // namespace ringcast::link
