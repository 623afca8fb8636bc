#include "pool/copies.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "pool/checksum.hpp"
#include "pool/crew.hpp"
#include "pool/past_caches.hpp"

namespace ringcast::pool {

namespace {

// What a thread takes at a time: large beside what it costs to hand it out, small beside a chunk.
constexpr std::uint64_t kUnit = 256 * 1024;
// What is copied before it is summed, out of the nearest cache: so little that the processor sums it while it waits for what
// comes next, and a multiple of what is summed in one go (checksum.cpp).
constexpr std::size_t kSummed = 256;
// How far ahead is fetched: where the next block lies, and many streams at once, the processor does not foresee.
constexpr std::size_t kFetchAhead = 4 * 1024;
// A job that writes so much, more than a core's share of the caches, writes past them: whole lines, and those within what is
// not shorter than kSummed.
constexpr std::uint64_t kMuch = 8 * 1024 * 1024;

enum class Stores { cached, past_caches };

bool is_line(const std::byte* at) noexcept { return reinterpret_cast<std::uintptr_t>(at) % kCacheLine == 0; }

void copy_line(std::byte* to, const std::byte* from) noexcept {
    std::array<std::byte, kCacheLine> line;
    std::memcpy(line.data(), from, kCacheLine);
    std::memcpy(to, line.data(), kCacheLine);
}

// Begins to bring a line into the cache. In line, or GCC takes calls of it for ones without any effect, and drops them.
[[gnu::always_inline]] inline void fetch(const std::byte* line) noexcept { __builtin_prefetch(line); }
[[gnu::always_inline]] inline void fetch_to_write(const std::byte* line) noexcept { __builtin_prefetch(line, 1); }

// Whole lines, and what lies before and after them.
void copy_past_caches(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
    if (!is_line(to)) {
        const std::size_t before = std::min(bytes, kCacheLine - reinterpret_cast<std::uintptr_t>(to) % kCacheLine);
        std::memcpy(to, from, before);
        to += before;
        from += before;
        bytes -= before;
    }
    const std::size_t lines = bytes / kCacheLine;
    copy_lines_past_caches(to, from, lines);
    const std::size_t done = lines * kCacheLine;
    if (bytes != done) std::memcpy(to + done, from + done, bytes - done);
}

// The C library copies much by one instruction, which is several times slower where the destination lies across lines.
void copy_through_caches(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
    for (; bytes >= kCacheLine; bytes -= kCacheLine, to += kCacheLine, from += kCacheLine) copy_line(to, from);
    if (bytes != 0) std::memcpy(to, from, bytes);
}

// Moves stretches of one chunk, in their order.
template <Direction direction, Stores stores, bool sums>
class Mover {
    static constexpr bool kGathers = direction == Direction::gather;

public:
    // Of the chunk that the engine has nothing of, or does not want.
    void pass_over(std::byte* chunk, std::size_t bytes) noexcept {
        if (kGathers) std::memset(chunk, 0, bytes);
        sum({chunk, bytes});
    }

    // Meanwhile what lies at `ahead` in the engine's memory is fetched.
    void move(std::byte* chunk, std::byte* engine, std::size_t bytes, const std::byte* ahead) noexcept {
        std::byte* to = kGathers ? chunk : engine;
        const std::byte* from = kGathers ? engine : chunk;
        const bool whole = is_line(to) && bytes % kCacheLine == 0;
        const bool past = stores == Stores::past_caches && (whole || bytes >= kSummed);
        while (bytes != 0) {
            // Past the caches, what follows begins with a line.
            const std::size_t beyond = past && bytes > kSummed ? reinterpret_cast<std::uintptr_t>(to) % kCacheLine : 0;
            const std::size_t piece = std::min(bytes, kSummed - beyond);
            for (std::size_t at = 0; at < piece + kCacheLine - 1; at += kCacheLine) {
                const std::size_t within = std::min(at, piece - 1);  // the last line, too, where rows lie across lines
                if (kGathers)
                    fetch(ahead + within);
                else if (past)
                    fetch(from + kFetchAhead + within);
                else
                    fetch_to_write(ahead + within);
            }
            if (!kGathers && past && !whole) {
                fetch_to_write(ahead);
                fetch_to_write(ahead + piece - 1);
            }
            if (past && is_line(to) && piece % kCacheLine == 0) {
                copy_lines(to, {from, piece});
            } else {
                if (past)
                    copy_past_caches(to, from, piece);
                else
                    copy_through_caches(to, from, piece);
                sum({from, piece});
            }
            to += piece;
            from += piece;
            ahead += piece;
            bytes -= piece;
        }
    }
    // The same of much that lies in a row; `next` is where the engine's memory goes on after it.
    void move_run(std::byte* chunk, std::byte* engine, std::size_t bytes, const std::byte* next) noexcept {
        const std::size_t most = bytes - std::min(bytes, kFetchAhead);
        move(chunk, engine, most, engine + kFetchAhead);
        move(chunk + most, engine + most, bytes - most, next);
    }

    std::uint32_t sum() noexcept { return sum_.value(); }

private:
    void sum(std::span<const std::byte> bytes) noexcept {
        if constexpr (sums) sum_.add(bytes);
    }

    // Past the caches, and sums them.
    void copy_lines(std::byte* to, std::span<const std::byte> lines) noexcept {
        if constexpr (sums)
            sum_.add_copying_past_caches(to, lines);
        else
            copy_lines_past_caches(to, lines.data(), lines.size() / kCacheLine);
    }

    Checksum sum_;
};

struct Copies {
    const CopyPlan& plan;
    std::span<const std::int64_t> ids;
    std::uint64_t skip;

    // The bytes from `begin` to `end` of the chunk whose first token is `first`; their checksum, if that is wanted.
    template <class Mover>
    std::uint32_t stretch(std::byte* chunk, std::uint64_t first, std::uint64_t begin, std::uint64_t end) const {
        const auto& starts = plan.starts();
        Mover mover;
        auto p = static_cast<std::size_t>(std::ranges::upper_bound(starts, begin) - starts.begin()) - 1;
        for (std::uint64_t at = begin; at < end; ++p) {
            const std::uint64_t until = std::min(end, starts[p + 1]);
            while (at < until) at += of_block(mover, plan.planes()[p], chunk + at, first, at - starts[p], until - at);
        }
        return mover.sum();
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
            mover.pass_over(chunk, bytes);
            return bytes;
        }
        const auto begin_of = [&](std::uint64_t b) { return plane.base + ids[b] * plane.block_stride; };
        std::byte* from = begin_of(block) + static_cast<std::int64_t>(in_block) * plane.token_stride;
        std::byte* const next = block + 1 < ids.size() ? begin_of(block + 1) : from;
        if (plane.heads == 1 && plane.token_stride == static_cast<std::int64_t>(plane.row_bytes)) {
            mover.move_run(chunk, from + inside, bytes, next);
            return bytes;
        }
        const std::uint64_t tokens_ahead = std::min(plan.block_tokens(), kFetchAhead / token_bytes + 1);
        for (std::uint64_t left = bytes, t = 0; left != 0; ++t, from += plane.token_stride) {
            const std::uint64_t then = t + tokens_ahead;
            const std::byte* const ahead = then < tokens
                                               ? from + static_cast<std::int64_t>(tokens_ahead) * plane.token_stride
                                               : next + static_cast<std::int64_t>(then - tokens) * plane.token_stride;
            std::uint64_t head = inside / plane.row_bytes;
            std::uint64_t skipped = inside % plane.row_bytes;
            inside = 0;
            for (; head < plane.heads && left != 0; ++head) {
                const std::uint64_t row = std::min(left, plane.row_bytes - skipped);
                const std::int64_t within_token =
                    static_cast<std::int64_t>(head) * plane.head_stride + static_cast<std::int64_t>(skipped);
                mover.move(chunk, from + within_token, row, ahead + within_token);
                skipped = 0;
                chunk += row;
                left -= row;
            }
        }
        return bytes;
    }
};

using Stretch = std::uint32_t (Copies::*)(std::byte*, std::uint64_t, std::uint64_t, std::uint64_t) const;

template <Direction direction>
Stretch stretch_by(Stores stores, bool sums) {
    if (stores == Stores::cached)
        return sums ? &Copies::stretch<Mover<direction, Stores::cached, true>>
                    : &Copies::stretch<Mover<direction, Stores::cached, false>>;
    return sums ? &Copies::stretch<Mover<direction, Stores::past_caches, true>>
                : &Copies::stretch<Mover<direction, Stores::past_caches, false>>;
}

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
    const Stores stores = chunks.size() * bytes < kMuch ? Stores::cached : Stores::past_caches;
    const Stretch stretch = direction == Direction::gather ? stretch_by<Direction::gather>(stores, summed)
                                                           : stretch_by<Direction::scatter>(stores, summed);
    std::vector<std::uint32_t> piece_sums(summed ? chunks.size() * pieces : 0);
    const auto piece_end = [&](std::uint64_t piece) { return std::min(bytes, (piece + 1) * kUnit); };
    Crew::of_process().run(chunks.size() * pieces, threads, [&](std::size_t unit) {
        const std::size_t k = unit / pieces;
        const std::uint64_t begin = unit % pieces * kUnit;
        const std::uint64_t end = piece_end(unit % pieces);
        const std::uint64_t first = k * plan.chunk_tokens();
        const std::uint32_t sum = (copies.*stretch)(chunks[k], first, begin, end);
        if (stores == Stores::past_caches) written_past_caches();
        if (summed) piece_sums[unit] = sum;
    });
    for (std::size_t k = 0; summed && k < chunks.size(); ++k) {
        sums[k] = piece_sums[k * pieces];
        for (std::uint64_t piece = 1; piece < pieces; ++piece)
            sums[k] = joined_checksum(sums[k], piece_sums[k * pieces + piece], piece_end(piece) - piece * kUnit);
    }
}

}  // namespace ringcast::pool
