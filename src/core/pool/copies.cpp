#include "pool/copies.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "pool/checksum.hpp"
#include "pool/crew.hpp"

namespace ringcast::pool {

namespace {

// What a thread takes at a time: large beside what it costs to hand it out, small beside a chunk.
constexpr std::uint64_t kUnit = 256 * 1024;
// Rows that are shorter than kFused are copied first, and summed once kSummed bytes of them lie in the nearest cache.
constexpr std::size_t kFused = 1024;
constexpr std::size_t kSummed = 24 * 1024;
constexpr std::size_t kLine = 64;

// The C library copies much by one instruction, which is several times slower where the destination lies across cache lines.
void copy_bytes(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
    if (reinterpret_cast<std::uintptr_t>(to) % kLine != 0) {
        for (; bytes >= kLine; bytes -= kLine, to += kLine, from += kLine) {
            std::array<std::byte, kLine> line;
            std::memcpy(line.data(), from, kLine);
            std::memcpy(to, line.data(), kLine);
        }
    }
    std::memcpy(to, from, bytes);
}

// Begins to bring what will be moved into the cache: short rows that lie apart are too many streams for the processor to
// foresee. In line, or GCC takes calls of it for ones without any effect, and drops them.
template <Direction direction>
[[gnu::always_inline]] inline void fetch(const std::byte* engine, std::size_t bytes) noexcept {
    for (std::size_t at = 0; at < bytes; at += kLine) __builtin_prefetch(engine + at, direction == Direction::scatter);
}

// Moves stretches of one chunk, in their order.
template <Direction direction, bool sums>
class Mover {
public:
    static constexpr Direction kDirection = direction;

    explicit Mover(const std::byte* from) noexcept : summed_(from) {}

    // `engine` is null where there is nothing to be moved.
    void move(std::byte* chunk, std::byte* engine, std::size_t bytes) noexcept {
        constexpr bool gathers = direction == Direction::gather;
        if (sums && engine != nullptr && bytes >= kFused) {
            sum_as_far_as(chunk);
            std::byte* const to = gathers ? chunk : engine;
            const std::byte* const from = gathers ? engine : chunk;
            sum_ = copy_with_checksum(to, {from, bytes}, sum_);
            summed_ = chunk + bytes;
            return;
        }
        if (engine != nullptr)
            copy_bytes(gathers ? chunk : engine, gathers ? engine : chunk, bytes);
        else if (gathers)
            std::memset(chunk, 0, bytes);
        if (sums && static_cast<std::size_t>(chunk + bytes - summed_) >= kSummed) sum_as_far_as(chunk + bytes);
    }

    std::uint32_t sum(const std::byte* end) noexcept {
        sum_as_far_as(end);
        return sum_;
    }

private:
    void sum_as_far_as(const std::byte* end) noexcept {
        if (!sums || end == summed_) return;
        sum_ = checksum_of({summed_, end}, sum_);
        summed_ = end;
    }

    const std::byte* summed_;
    std::uint32_t sum_ = 0;
};

struct Copies {
    const CopyPlan& plan;
    std::span<const std::int64_t> ids;
    std::uint64_t skip;

    // The bytes from `begin` to `end` of the chunk whose first token is `first`; their checksum, if that is wanted.
    template <Direction direction, bool sums>
    std::uint32_t stretch(std::byte* chunk, std::uint64_t first, std::uint64_t begin, std::uint64_t end) const {
        const auto& starts = plan.starts();
        Mover<direction, sums> mover(chunk + begin);
        auto p = static_cast<std::size_t>(std::ranges::upper_bound(starts, begin) - starts.begin()) - 1;
        for (std::uint64_t at = begin; at < end; ++p) {
            const std::uint64_t until = std::min(end, starts[p + 1]);
            while (at < until) at += of_block(mover, plan.planes()[p], chunk + at, first, at - starts[p], until - at);
        }
        return mover.sum(chunk + end);
    }

private:
    // As much as lies in one block of what begins `within` bytes after the plane's begin; how much that is, at most `most`.
    template <class Mover>
    std::uint64_t of_block(Mover& mover, const Plane& plane, std::byte* chunk, std::uint64_t first,
                           std::uint64_t within, std::uint64_t most) const {
        const std::uint64_t token_bytes = plane.token_bytes();
        const std::uint64_t token = first + within / token_bytes;
        std::uint64_t inside = within % token_bytes;
        const std::uint64_t block = token / plan.block_tokens();
        const std::uint64_t in_block = token % plan.block_tokens();
        std::uint64_t tokens = plan.block_tokens() - in_block;
        const bool wanted = block < ids.size() && token >= skip;
        if (block < ids.size() && token < skip) tokens = std::min(tokens, skip - token);
        const std::uint64_t bytes = std::min(most, tokens * token_bytes - inside);
        if (!wanted) {
            mover.move(chunk, nullptr, bytes);
            return bytes;
        }
        std::byte* from =
            plane.base + ids[block] * plane.block_stride + static_cast<std::int64_t>(in_block) * plane.token_stride;
        if (plane.heads == 1 && plane.token_stride == static_cast<std::int64_t>(plane.row_bytes)) {
            mover.move(chunk, from + inside, bytes);
            return bytes;
        }
        for (std::uint64_t left = bytes; left != 0; from += plane.token_stride) {
            std::uint64_t head = inside / plane.row_bytes;
            std::uint64_t skipped = inside % plane.row_bytes;
            inside = 0;
            for (; head < plane.heads && left != 0; ++head) {
                const std::uint64_t row = std::min(left, plane.row_bytes - skipped);
                std::byte* const here = from + static_cast<std::int64_t>(head) * plane.head_stride + skipped;
                fetch<Mover::kDirection>(here + plane.token_stride, row);
                mover.move(chunk, here, row);
                skipped = 0;
                chunk += row;
                left -= row;
            }
        }
        return bytes;
    }
};

}  // namespace

CopyPlan::CopyPlan(std::vector<Plane> planes, std::uint64_t n_blocks, std::uint64_t block_tokens,
                   std::uint64_t chunk_tokens)
    : planes_(std::move(planes)),
      n_blocks_(n_blocks),
      block_tokens_(block_tokens),
      chunk_tokens_(chunk_tokens),
      starts_{0} {
    for (Plane& plane : planes_) {
        if (plane.heads == 1 || plane.head_stride == static_cast<std::int64_t>(plane.row_bytes)) {
            plane.row_bytes = plane.token_bytes();
            plane.heads = 1;
        }
        if (block_tokens == 1) plane.token_stride = static_cast<std::int64_t>(plane.token_bytes());
        starts_.push_back(starts_.back() + chunk_tokens * plane.token_bytes());
    }
}

void copy_chunks(const CopyPlan& plan, std::span<const std::int64_t> ids, std::span<std::byte* const> chunks,
                 Direction direction, std::uint64_t skip_tokens, std::span<std::uint32_t> sums, unsigned threads) {
    const Copies copies{.plan = plan, .ids = ids, .skip = direction == Direction::scatter ? skip_tokens : 0};
    const std::uint64_t bytes = plan.chunk_bytes();
    const std::uint64_t pieces = (bytes + kUnit - 1) / kUnit;  // of a chunk
    const bool summed = !sums.empty();
    std::vector<std::uint32_t> piece_sums(summed ? chunks.size() * pieces : 0);
    const auto piece_end = [&](std::uint64_t piece) { return std::min(bytes, (piece + 1) * kUnit); };
    Crew::of_process().run(chunks.size() * pieces, threads, [&](std::size_t unit) {
        const std::size_t k = unit / pieces;
        const std::uint64_t begin = unit % pieces * kUnit;
        const std::uint64_t end = piece_end(unit % pieces);
        const std::uint64_t first = k * plan.chunk_tokens();
        const auto with = [&]<Direction way>() {
            if (summed)
                piece_sums[unit] = copies.stretch<way, true>(chunks[k], first, begin, end);
            else
                copies.stretch<way, false>(chunks[k], first, begin, end);
        };
        if (direction == Direction::gather)
            with.template operator()<Direction::gather>();
        else
            with.template operator()<Direction::scatter>();
    });
    for (std::size_t k = 0; summed && k < chunks.size(); ++k) {
        sums[k] = piece_sums[k * pieces];
        for (std::uint64_t piece = 1; piece < pieces; ++piece)
            sums[k] = joined_checksum(sums[k], piece_sums[k * pieces + piece], piece_end(piece) - piece * kUnit);
    }
}

}  // namespace ringcast::pool
