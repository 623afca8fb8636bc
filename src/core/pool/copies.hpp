// Copies between an engine's paged tensors and chunks, in one pass, with the chunks' checksums made on the way.
//
// A chunk is planes back to back; a plane is `chunk_tokens` tokens back to back; a token is `heads` rows. In the engine's
// memory a plane is blocks of `block_tokens` tokens, and each step from block to block, token to token and head to head has
// a stride of its own. Opaque pages are the same with one row a token and one token a block.
//
//     chunk    | plane 0: token 0 | token 1 | ... | plane 1: token 0 | ...
//                         row row | row row |
//     engine   base + block * block_stride + token * token_stride + head * head_stride
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace ringcast::pool {

struct Plane {
    std::byte* base;
    std::int64_t block_stride;  // in bytes
    std::int64_t token_stride;
    std::int64_t head_stride;
    std::uint64_t heads;
    std::uint64_t row_bytes;

    std::uint64_t token_bytes() const noexcept { return heads * row_bytes; }
};

class CopyPlan {
public:
    // Rows and tokens that lie in a row are made one.
    CopyPlan(std::vector<Plane> planes, std::uint64_t n_blocks, std::uint64_t block_tokens, std::uint64_t chunk_tokens);

    std::uint64_t n_blocks() const noexcept { return n_blocks_; }
    std::uint64_t block_tokens() const noexcept { return block_tokens_; }
    std::uint64_t chunk_tokens() const noexcept { return chunk_tokens_; }
    std::uint64_t chunk_bytes() const noexcept { return starts_.back(); }
    const std::vector<Plane>& planes() const noexcept { return planes_; }
    const std::vector<std::uint64_t>& starts() const noexcept { return starts_; }  // of planes in a chunk, and its end

private:
    std::vector<Plane> planes_;
    std::uint64_t n_blocks_;
    std::uint64_t block_tokens_;
    std::uint64_t chunk_tokens_;
    std::vector<std::uint64_t> starts_;
};

enum class Direction { gather, scatter };

// Token t of chunk k is number k * chunk_tokens + t of the tokens in the blocks `ids`, one after the other, each of which
// is less than n_blocks. Behind the last of these a gathered chunk is zeros, and a scattered one is not looked at; nor are
// the first `skip_tokens` when scattering. With `sums`, one for each chunk, the checksum of each whole chunk is put there.
void copy_chunks(const CopyPlan& plan, std::span<const std::int64_t> ids, std::span<std::byte* const> chunks,
                 Direction direction, std::uint64_t skip_tokens, std::span<std::uint32_t> sums, unsigned threads);

}  // namespace ringcast::pool
