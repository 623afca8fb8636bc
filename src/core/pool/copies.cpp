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
// What is copied before it is summed, out of the nearest cache, which it has just come into; what follows is fetched
// meanwhile. It is summed in one go (checksum.cpp).
constexpr std::size_t kSummed = 3 * 1024;
constexpr std::size_t kShortRow = 1024;
// A job that writes so much writes past the caches: more than a core's share of them.
constexpr std::uint64_t kMuch = 8 * 1024 * 1024;

enum class Stores { cached, past_caches };

bool is_line(const std::byte* at) noexcept { return reinterpret_cast<std::uintptr_t>(at) % kCacheLine == 0; }

void copy_line(std::byte* to, const std::byte* from) noexcept {
    std::array<std::byte, kCacheLine> line;
    std::memcpy(line.data(), from, kCacheLine);
    std::memcpy(to, line.data(), kCacheLine);
}

// Begins to bring a line into the cache: the processor foresees neither where the next block lies, nor many streams at once.
// In line, or GCC takes calls of it for ones without any effect, and drops them.
[[gnu::always_inline]] inline void fetch(const std::byte* line) noexcept { __builtin_prefetch(line); }
[[gnu::always_inline]] inline void fetch_to_write(const std::byte* line) noexcept { __builtin_prefetch(line, 1); }

// `ahead` is what will be read next.
template <Stores stores>
void copy_run(std::byte* to, const std::byte* from, std::size_t bytes, const std::byte* ahead) noexcept {
    if constexpr (stores == Stores::past_caches) {
        if (!is_line(to)) {
            const std::size_t before = std::min(bytes, kCacheLine - reinterpret_cast<std::uintptr_t>(to) % kCacheLine);
            std::memcpy(to, from, before);
            to += before;
            from += before;
            bytes -= before;
        }
        for (; bytes >= kCacheLine; bytes -= kCacheLine, to += kCacheLine, from += kCacheLine, ahead += kCacheLine) {
            fetch(ahead);
            copy_line_past_caches(to, from);
        }
    } else if (!is_line(to)) {
        // The C library copies much by one instruction, which is several times slower across cache lines.
        for (; bytes >= kCacheLine; bytes -= kCacheLine, to += kCacheLine, from += kCacheLine) copy_line(to, from);
    }
    if (bytes != 0) std::memcpy(to, from, bytes);
}

// From the engine's rows into one chunk, in the chunk's order. Short rows are put together in the nearest cache first, so that
// the chunk's lines are written whole.
template <Stores stores, bool sums>
class Gatherer {
public:
    explicit Gatherer(std::byte* /*chunk*/) noexcept {}

    // `engine` is null where there is nothing, and the chunk is zeros. After these bytes, those at `ahead` are read.
    void move(std::byte* chunk, const std::byte* engine, std::size_t bytes, const std::byte* ahead) noexcept {
        if (engine != nullptr && bytes < kShortRow) {
            put_together(chunk, engine, bytes, ahead);
            return;
        }
        write_row();
        if (engine == nullptr) {
            std::memset(chunk, 0, bytes);
            sum({chunk, bytes});
            return;
        }
        while (bytes != 0) {
            const std::size_t piece = std::min(bytes, kSummed);
            bytes -= piece;
            copy_run<stores>(chunk, engine, piece, bytes != 0 ? engine + piece : ahead);
            sum({engine, piece});
            chunk += piece;
            engine += piece;
        }
    }

    std::uint32_t finish(const std::byte* /*end*/) noexcept {
        write_row();
        return sum_;
    }

private:
    void put_together(std::byte* chunk, const std::byte* engine, std::size_t bytes, const std::byte* ahead) noexcept {
        if (filled_ == 0) {
            row_of_ = chunk;
            room_ = kSummed - reinterpret_cast<std::uintptr_t>(chunk) % kCacheLine;
        }
        for (std::size_t at = 0; at < bytes; at += kCacheLine) fetch(ahead + at);
        while (bytes != 0) {
            std::size_t part = std::min(bytes, room_ - filled_);
            bytes -= part;
            for (; part >= kCacheLine; part -= kCacheLine, filled_ += kCacheLine, engine += kCacheLine)
                copy_line(row_.data() + filled_, engine);
            if (part != 0) std::memcpy(row_.data() + filled_, engine, part);
            filled_ += part;
            engine += part;
            if (filled_ == room_) {
                row_of_ += write_row();
                room_ = kSummed;
            }
        }
    }

    std::size_t write_row() noexcept {
        const std::size_t bytes = filled_;
        copy_run<stores>(row_of_, row_.data(), bytes, row_.data());
        sum({row_.data(), bytes});
        filled_ = 0;
        return bytes;
    }

    void sum(std::span<const std::byte> bytes) noexcept {
        if constexpr (sums) sum_ = checksum_of(bytes, sum_);
    }

    alignas(kCacheLine) std::array<std::byte, kSummed> row_;
    std::byte* row_of_ = nullptr;  // where in the chunk it goes
    std::size_t filled_ = 0;
    std::size_t room_ = 0;
    std::uint32_t sum_ = 0;
};

// From one chunk, in its order, into the engine's rows.
template <Stores stores, bool sums>
class Scatterer {
public:
    explicit Scatterer(const std::byte* chunk) noexcept : summed_(chunk) {}

    // `engine` is null where the chunk is only looked at. After these bytes, those at `ahead` are written.
    void move(const std::byte* chunk, std::byte* engine, std::size_t bytes, const std::byte* ahead) noexcept {
        if (engine != nullptr && bytes < kShortRow) {
            if (stores == Stores::past_caches && is_line(engine) && bytes % kCacheLine == 0) {
                copy_run<stores>(engine, chunk, bytes, chunk + kSummed);
            } else {
                for (std::size_t at = 0; at < bytes; at += kCacheLine) fetch_to_write(ahead + at);
                copy_run<Stores::cached>(engine, chunk, bytes, nullptr);
            }
            chunk += bytes;
        } else if (engine != nullptr) {
            while (bytes != 0) {
                const std::size_t piece = std::min(bytes, kSummed);
                copy_run<stores>(engine, chunk, piece, chunk + piece);
                bytes -= piece;
                chunk += piece;
                engine += piece;
                sum_as_far_as(chunk);
            }
        } else {
            chunk += bytes;
        }
        if (static_cast<std::size_t>(chunk - summed_) >= kSummed) sum_as_far_as(chunk);
    }

    std::uint32_t finish(const std::byte* end) noexcept {
        sum_as_far_as(end);
        return sum_;
    }

private:
    void sum_as_far_as(const std::byte* end) noexcept {
        if constexpr (sums) sum_ = checksum_of({summed_, end}, sum_);
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
    template <class Mover>
    std::uint32_t stretch(std::byte* chunk, std::uint64_t first, std::uint64_t begin, std::uint64_t end) const {
        const auto& starts = plan.starts();
        Mover mover(chunk + begin);
        auto p = static_cast<std::size_t>(std::ranges::upper_bound(starts, begin) - starts.begin()) - 1;
        for (std::uint64_t at = begin; at < end; ++p) {
            const std::uint64_t until = std::min(end, starts[p + 1]);
            while (at < until) at += of_block(mover, plan.planes()[p], chunk + at, first, at - starts[p], until - at);
        }
        return mover.finish(chunk + end);
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
            mover.move(chunk, nullptr, bytes, nullptr);
            return bytes;
        }
        const auto begin_of = [&](std::uint64_t b) { return plane.base + ids[b] * plane.block_stride; };
        std::byte* from = begin_of(block) + static_cast<std::int64_t>(in_block) * plane.token_stride;
        std::byte* const next = block + 1 < ids.size() ? begin_of(block + 1) : from;
        if (plane.heads == 1 && plane.token_stride == static_cast<std::int64_t>(plane.row_bytes)) {
            mover.move(chunk, from + inside, bytes, next);
            return bytes;
        }
        for (std::uint64_t left = bytes; left != 0; from += plane.token_stride) {
            const std::byte* const ahead = left > token_bytes - inside ? from + plane.token_stride : next;
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

template <template <Stores, bool> class Mover>
Stretch stretch_by(Stores stores, bool sums) {
    if (stores == Stores::cached)
        return sums ? &Copies::stretch<Mover<Stores::cached, true>> : &Copies::stretch<Mover<Stores::cached, false>>;
    return sums ? &Copies::stretch<Mover<Stores::past_caches, true>>
                : &Copies::stretch<Mover<Stores::past_caches, false>>;
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
    const Stretch stretch =
        direction == Direction::gather ? stretch_by<Gatherer>(stores, summed) : stretch_by<Scatterer>(stores, summed);
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
