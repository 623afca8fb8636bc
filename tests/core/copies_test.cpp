// Copies between an engine's tensors and chunks, against copies byte by byte: rows short and long, apart and in a row, where
// lines begin and where they do not, little at a time and so much that it is written past the caches; and the checksum,
// against what is published and against tables.
#include <algorithm>
#include <cstring>
#include <random>
#include <span>
#include <string_view>
#include <vector>

#include "check.hpp"
#include "pool/checksum.hpp"
#include "pool/copies.hpp"
#include "pool/past_caches.hpp"

using namespace ringcast;
using namespace ringcast::pool;

namespace {

using Bytes = std::vector<std::byte>;

constexpr std::byte kUntouched{0xee};
constexpr std::uint64_t kMargin = 64;

std::uint64_t among(std::mt19937_64& random, std::uint64_t least, std::uint64_t most) {
    return least + random() % (most - least + 1);
}

Bytes some_bytes(std::mt19937_64& random, std::size_t count) {
    Bytes bytes(count);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    return bytes;
}

std::uint32_t checksum_by_table(std::span<const std::byte> bytes, std::uint32_t before = 0) {
    Checksum sum(before, Summing::by_table);
    sum.add(bytes);
    return sum.value();
}

// Keys and values of some layers in one tensor; rows of keys and of values lie between each other, with a gap behind them.
struct Engine {
    std::uint64_t heads, row_bytes, block_tokens, n_blocks, layers, gap, shift;
    bool heads_first;

    std::uint64_t row_stride() const { return 2 * row_bytes + gap; }
    std::uint64_t block_stride() const { return heads * block_tokens * row_stride(); }
    std::uint64_t bytes() const { return shift + layers * n_blocks * block_stride(); }
    std::uint64_t row(std::uint64_t layer, bool value, std::uint64_t block, std::uint64_t token,
                      std::uint64_t head) const {
        const std::uint64_t within = heads_first ? head * block_tokens + token : token * heads + head;
        return shift + (layer * n_blocks + block) * block_stride() + within * row_stride() + (value ? row_bytes : 0);
    }
    CopyPlan plan(Bytes& memory, std::uint64_t chunk_tokens) const {
        const auto stride = static_cast<std::int64_t>(row_stride());
        const auto many = static_cast<std::int64_t>(heads_first ? block_tokens : heads) * stride;
        std::vector<Plane> planes;
        for (std::uint64_t layer = 0; layer < layers; ++layer)
            for (const bool value : {false, true})
                planes.push_back({memory.data() + row(layer, value, 0, 0, 0), static_cast<std::int64_t>(block_stride()),
                                  heads_first ? stride : many, heads_first ? many : stride, heads, row_bytes});
        return {std::move(planes), n_blocks, block_tokens, chunk_tokens};
    }
};

// What chunk number k is; or, with `back`, puts it into the engine's memory.
Bytes chunk_of(const Engine& engine, Bytes& memory, std::span<const std::int64_t> ids, std::uint64_t chunk_tokens,
               std::uint64_t k, std::uint64_t skip = 0, const Bytes* back = nullptr) {
    Bytes chunk;
    for (std::uint64_t layer = 0; layer < engine.layers; ++layer)
        for (const bool value : {false, true})
            for (std::uint64_t t = k * chunk_tokens; t < (k + 1) * chunk_tokens; ++t)
                for (std::uint64_t head = 0; head < engine.heads; ++head) {
                    const std::uint64_t block = t / engine.block_tokens;
                    const std::size_t at = chunk.size();
                    chunk.resize(at + engine.row_bytes);
                    if (block >= ids.size()) continue;
                    const auto id = static_cast<std::uint64_t>(ids[block]);
                    std::byte* const row = memory.data() + engine.row(layer, value, id, t % engine.block_tokens, head);
                    if (back == nullptr)
                        std::memcpy(chunk.data() + at, row, engine.row_bytes);
                    else if (t >= skip)
                        std::memcpy(row, back->data() + at, engine.row_bytes);
                }
    return chunk;
}

void compare(std::mt19937_64& random, const Engine& engine, std::uint64_t chunk_tokens, std::uint64_t chunk_shift) {
    Bytes memory = some_bytes(random, engine.bytes());
    const CopyPlan plan = engine.plan(memory, chunk_tokens);
    std::vector<std::int64_t> ids(engine.n_blocks);
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int64_t>(i);
    std::ranges::shuffle(ids, random);
    const std::uint64_t n_chunks = (engine.n_blocks * engine.block_tokens + chunk_tokens - 1) / chunk_tokens;
    const std::uint64_t missing = among(random, 0, std::min<std::uint64_t>(2, ids.size() - 1));
    ids.resize(ids.size() - missing);

    const std::uint64_t apart = plan.chunk_bytes() + chunk_shift;
    Bytes room(n_chunks * apart + kMargin, kUntouched);
    std::vector<std::byte*> chunks;
    for (std::uint64_t k = 0; k < n_chunks; ++k) chunks.push_back(room.data() + chunk_shift + k * apart);
    std::vector<std::uint32_t> sums(n_chunks);
    const auto threads = static_cast<unsigned>(among(random, 1, 3));
    copy_chunks(plan, ids, chunks, Direction::gather, 0, sums, threads);
    std::vector<Bytes> expected;
    for (std::uint64_t k = 0; k < n_chunks; ++k) {
        expected.push_back(chunk_of(engine, memory, ids, chunk_tokens, k));
        CHECK(std::ranges::equal(std::span(chunks[k], plan.chunk_bytes()), expected[k]));
        CHECK(sums[k] == checksum_by_table(expected[k]));
        CHECK(std::ranges::all_of(std::span(chunks[k] - chunk_shift, chunk_shift),
                                  [](std::byte b) { return b == kUntouched; }));
    }
    CHECK(std::ranges::all_of(std::span(room).last(kMargin), [](std::byte b) { return b == kUntouched; }));
    std::ranges::fill(room, kUntouched);
    copy_chunks(plan, ids, chunks, Direction::gather, 0, {}, threads);
    for (std::uint64_t k = 0; k < n_chunks; ++k)
        CHECK(std::ranges::equal(std::span(chunks[k], plan.chunk_bytes()), expected[k]));

    for (const bool summed : {true, false}) {
        const std::uint64_t skip = among(random, 0, 1) * among(random, 0, n_chunks * chunk_tokens);
        Bytes wanted(memory.size(), kUntouched);
        for (std::uint64_t k = 0; k < n_chunks; ++k) chunk_of(engine, wanted, ids, chunk_tokens, k, skip, &expected[k]);
        std::ranges::fill(memory, kUntouched);
        std::ranges::fill(sums, 0);
        copy_chunks(plan, ids, chunks, Direction::scatter, skip, summed ? std::span(sums) : std::span<std::uint32_t>(),
                    threads);
        CHECK(memory == wanted);
        for (std::uint64_t k = 0; summed && k < n_chunks; ++k) CHECK(sums[k] == checksum_by_table(expected[k]));
    }
}

}  // namespace

TEST(checksums_are_as_published) {
    const auto bytes_of = [](std::string_view text) { return std::as_bytes(std::span(text)); };
    const Bytes zeros(32);
    const Bytes ones(32, std::byte{0xff});
    for (const auto sum_of : {+[](std::span<const std::byte> bytes) { return checksum_by_table(bytes); },
                              +[](std::span<const std::byte> bytes) { return checksum_of(bytes); }}) {
        CHECK(sum_of(bytes_of("123456789")) == 0xe306'9283);  // the catalogue's check value
        CHECK(sum_of(zeros) == 0x8a91'36aa);                  // RFC 3720, B.4
        CHECK(sum_of(ones) == 0x62a8'ab43);
    }
}

TEST(checksums_are_as_by_tables) {
    std::mt19937_64 random(1);
    const Bytes bytes = some_bytes(random, 40'000);
    Bytes copy(bytes.size() + kCacheLine);
    std::byte* const line = &copy[kCacheLine - reinterpret_cast<std::uintptr_t>(copy.data()) % kCacheLine];
    for (int i = 0; i < 1000; ++i) {
        const std::size_t begin = among(random, 0, 100);
        const std::size_t count = i < 600 ? static_cast<std::size_t>(i) : among(random, 0, bytes.size() - begin);
        const std::span stretch = std::span(bytes).subspan(begin, count);
        const auto before = static_cast<std::uint32_t>(random());
        const std::uint32_t sum = checksum_by_table(stretch, before);
        CHECK(joined_checksum(before, checksum_by_table(stretch), count) == sum);
        for (const Summing how : {Summing::by_table, Summing::by_instruction, Summing::by_folding}) {
            if (!can_sum(how)) continue;
            Checksum at_once(before, how);
            at_once.add(stretch);
            CHECK(at_once.value() == sum);
            // By pieces, of whole lines more often than not, and looked at between.
            Checksum by_pieces(before, how);
            for (std::size_t at = 0; at < count;) {
                const std::size_t whole = Checksum::kFold * among(random, 0, 5);
                const std::size_t piece =
                    std::min<std::uint64_t>(count - at, whole + among(random, 0, 2) / 2 * among(random, 0, 70));
                by_pieces.add(stretch.subspan(at, piece));
                at += piece;
                if (i % 7 == 0) CHECK(by_pieces.value() == checksum_by_table(stretch.first(at), before));
            }
            CHECK(by_pieces.value() == sum);
            // Lines while they are copied, and what is left of them.
            Checksum copying(before, how);
            const std::size_t lines = count - count % kCacheLine;
            for (std::size_t at = 0; at < lines;) {
                const std::size_t piece = std::min<std::uint64_t>(lines - at, kCacheLine * among(random, 0, 5));
                copying.add_copying_past_caches(line + at, stretch.subspan(at, piece));
                at += piece;
            }
            copying.add(stretch.subspan(lines));
            CHECK(copying.value() == sum);
            CHECK(lines == 0 || std::memcmp(line, stretch.data(), lines) == 0);
            std::ranges::fill(copy, std::byte{0});
        }
    }
}

TEST(little_is_copied_as_byte_by_byte) {
    std::mt19937_64 random(2);
    for (int i = 0; i < 6 * check::kScale + 20; ++i) {
        const Engine engine{.heads = among(random, 1, 4),
                            .row_bytes = among(random, 1, i % 3 == 0 ? 4000 : 300),
                            .block_tokens = among(random, 1, 5),
                            .n_blocks = among(random, 1, 7),
                            .layers = among(random, 1, 2),
                            .gap = among(random, 0, 1) * among(random, 0, 70),
                            .shift = among(random, 0, 1) * among(random, 0, 70),
                            .heads_first = among(random, 0, 1) == 1};
        compare(random, engine, among(random, 1, 12), among(random, 0, 1) * among(random, 0, 70));
    }
}

// Some 9 MiB: rows of whole lines and others, heads before tokens and after, in memory that begins with a line or does not.
TEST(much_is_copied_as_byte_by_byte) {
    std::mt19937_64 random(3);
    const std::vector<std::uint64_t> rows = check::kScale > 1
                                                ? std::vector<std::uint64_t>{16, 72, 256, 320, 1000, 2048, 5000}
                                                : std::vector<std::uint64_t>{72, 256, 5000};
    for (const std::uint64_t row_bytes : rows)
        for (const std::uint64_t shift : {std::uint64_t{0}, std::uint64_t{8}}) {
            const std::uint64_t blocks = (std::uint64_t{9} << 20) / (2 * 3 * 4 * row_bytes);
            const Engine engine{.heads = 3,
                                .row_bytes = row_bytes,
                                .block_tokens = 4,
                                .n_blocks = blocks,
                                .layers = 1,
                                .gap = shift,
                                .shift = shift,
                                .heads_first = shift == 0};
            compare(random, engine, blocks * 2 + 1, shift * 3);
        }
}
