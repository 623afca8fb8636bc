#include "link/cipher.hpp"

#include <algorithm>
#include <utility>

namespace ringcast::link {

namespace {

Nonce nonce_of(std::uint32_t first, std::uint64_t second) noexcept {
    Nonce nonce;
    for (std::size_t i = 0; i < 4; ++i) nonce[i] = static_cast<std::byte>(first >> (24 - 8 * i));
    for (std::size_t i = 0; i < 8; ++i) nonce[4 + i] = static_cast<std::byte>(second >> (56 - 8 * i));
    return nonce;
}

std::size_t length_of(Pieces pieces) noexcept {
    std::size_t length = 0;
    for (const Piece piece : pieces) length += piece.size();
    return length;
}

}  // namespace

Cipher::Cipher(std::unique_ptr<Aead> aead, const Key& key, std::uint64_t rekey_bytes)
    : aead_(std::move(aead)), key_(key), rekey_bytes_(rekey_bytes) {
    aead_->use(key_);
}

Nonce Cipher::nonce(std::uint8_t kind) const noexcept { return nonce_of(kind, counter_); }

void Cipher::seal(std::uint8_t kind, Pieces plain, std::byte* sealed) {
    aead_->seal(nonce(kind), {}, plain, sealed);
    count(length_of(plain) + kTagBytes);
}

bool Cipher::open(std::uint8_t kind, Piece sealed, std::byte* plain) {
    if (!aead_->open(nonce(kind), {}, sealed, plain)) return false;
    count(sealed.size());
    return true;
}

void Cipher::sign(std::uint8_t kind, Pieces clear, std::byte* tag) {
    aead_->seal(nonce(kind), clear, {}, tag);
    count(length_of(clear) + kTagBytes);
}

bool Cipher::verify(std::uint8_t kind, Piece clear, const std::byte* tag) {
    if (!aead_->open(nonce(kind), clear, {tag, kTagBytes}, nullptr)) return false;
    count(clear.size() + kTagBytes);
    return true;
}

void Cipher::count(std::size_t nbytes) {
    ++counter_;
    bytes_ += nbytes;
    if (bytes_ < rekey_bytes_) return;
    // Noise's REKEY: what zeros become under the last of all nonces.
    bytes_ = 0;
    const Key zeros{};
    const Piece plain = zeros;
    std::array<std::byte, kKeyBytes + kTagBytes> next;
    aead_->seal(nonce_of(0, UINT64_MAX), {}, {&plain, 1}, next.data());
    std::copy_n(next.begin(), kKeyBytes, key_.begin());
    aead_->use(key_);
}

}  // namespace ringcast::link
