// The sizes of a queue: what is refused, and what follows from what is accepted.
#include "geometry.hpp"

#include <random>

#include "check.hpp"

using ringcast::Geometry;
using ringcast::NativeSeat;
using ringcast::NativeSlot;
using ringcast::plan_geometry;

namespace {
constexpr std::uint64_t kPage = 4096;

void check_plan(const Geometry& plan, std::uint64_t page) {
    CHECK(plan.n_seats == plan.n_reader + ringcast::kSpareSeats);
    CHECK(plan.slot_bytes == plan.inline_bytes + sizeof(NativeSlot));
    CHECK(plan.slot_bytes % ringcast::kLinePair == 0);
    CHECK(plan.ranks_offset == ringcast::kSeatsOffset + plan.n_seats * sizeof(NativeSeat));
    CHECK(plan.slots_offset >= plan.ranks_offset + plan.n_local * 4);
    CHECK(plan.slots_offset % ringcast::kLinePair == 0);
    CHECK(plan.marks_offset >= plan.slots_offset + std::uint64_t{plan.max_chunks} * plan.slot_bytes);
    CHECK(plan.marks_offset % ringcast::kLinePair == 0 && plan.mark_column_bytes % ringcast::kLinePair == 0);
    CHECK(plan.mark_column_bytes >= std::uint64_t{plan.max_leases} * 8 && plan.max_leases >= plan.max_chunks);
    CHECK(plan.control_bytes >= plan.marks_offset + (plan.n_seats + std::uint64_t{1}) * plan.mark_column_bytes);
    CHECK(plan.control_bytes % page == 0);
    CHECK(plan.data_bytes % page == 0);
    CHECK(plan.total_bytes == plan.control_bytes + plan.data_bytes);
    CHECK(plan.data_bytes >= plan.data_budget && plan.data_bytes <= 4 * plan.data_budget);
    // Every usual message finds room: inline, or in the data part.
    CHECK(plan.max_chunk_bytes <= plan.inline_bytes || plan.max_chunk_bytes <= plan.data_budget);
}
}  // namespace

TEST(sizes_outside_the_limits_are_refused) {
    CHECK_THROWS(plan_geometry(0, 0, 100, 4, 0, 0, kPage), invalid_argument);
    CHECK_THROWS(plan_geometry(ringcast::kMaxReaders + 1, 1, 100, 4, 0, 0, kPage), invalid_argument);
    CHECK_THROWS(plan_geometry(2, 3, 100, 4, 0, 0, kPage), invalid_argument);
    CHECK_THROWS(plan_geometry(1, 1, 0, 4, 0, 0, kPage), invalid_argument);
    CHECK_THROWS(plan_geometry(1, 1, ringcast::kMaxChunkBytes + 1, 4, 0, 0, kPage), invalid_argument);
    CHECK_THROWS(plan_geometry(1, 1, 100, 0, 0, 0, kPage), invalid_argument);
    CHECK_THROWS(plan_geometry(1, 1, 100, ringcast::kMaxChunks + 1, 0, 0, kPage), invalid_argument);
    CHECK_THROWS(plan_geometry(1, 1, 100, 4, ringcast::kMaxTotalBytes + 1, 0, kPage), invalid_argument);
    CHECK_THROWS(plan_geometry(1, 1, 100, 4, 100, 0, kPage), invalid_argument);
    CHECK_THROWS(plan_geometry(1, 1, 1 << 20, 4, 1 << 20, 0, kPage), invalid_argument);
}

TEST(sizes_at_the_limits_are_accepted) {
    check_plan(plan_geometry(1, 0, 1, 1, 0, 0, kPage), kPage);
    check_plan(plan_geometry(ringcast::kMaxReaders, ringcast::kMaxReaders, 1, 1, 0, 0, kPage), kPage);
    check_plan(plan_geometry(1, 1, 1, ringcast::kMaxChunks, 0, 0, kPage), kPage);
    check_plan(plan_geometry(1, 1, ringcast::kMaxChunkBytes, 2, 0, 0, kPage), kPage);
}

TEST(the_largest_sizes_together_do_not_overflow) {
    check_plan(plan_geometry(1, 1, ringcast::kMaxChunkBytes, ringcast::kMaxChunks, 0, 0, kPage), kPage);
}

TEST(any_accepted_sizes_give_parts_that_do_not_overlap) {
    std::mt19937_64 random(5);
    const auto up_to = [&](std::uint64_t most) {
        return std::uniform_int_distribution<std::uint64_t>(1, most)(random);
    };
    for (int n = 0; n < 20'000 * check::kScale; ++n) {
        const auto n_reader = static_cast<std::uint32_t>(up_to(up_to(ringcast::kMaxReaders)));
        const auto n_local = static_cast<std::uint32_t>(up_to(n_reader));
        const auto chunks = static_cast<std::uint32_t>(up_to(up_to(up_to(ringcast::kMaxChunks))));
        const std::uint64_t chunk = up_to(up_to(up_to(ringcast::kMaxChunkBytes)));
        const std::uint64_t page = std::uint64_t{4096} << (n % 3) * 2;  // 4, 16 and 64 KiB
        const std::uint64_t budget = n % 2 == 0 ? 0 : up_to(up_to(ringcast::kMaxTotalBytes));
        try {
            const Geometry plan = plan_geometry(n_reader, n_local, chunk, chunks, budget, 0, page);
            check_plan(plan, page);
            if (budget != 0) CHECK(plan.control_bytes + plan.data_budget <= budget);
        } catch (const ringcast::Error& error) {
            CHECK(error.code() == ringcast::ErrorCode::invalid_argument);
            CHECK(budget != 0 || chunk > (std::uint64_t{1} << 39));  // else any sizes within the limits are fine
        }
    }
}

TEST(a_default_queue_is_small_until_it_is_used) {
    const Geometry plan = plan_geometry(8, 8, std::uint64_t{24} << 20, 10, 0, 0, kPage);
    CHECK(plan.control_bytes <= std::uint64_t{1} << 20);
    CHECK(plan.data_budget == ringcast::kDefaultDataBudget);
}

TEST(defaults_make_room_for_a_budget_that_was_asked_for) {
    constexpr std::uint64_t kMiB = 1 << 20;
    const auto chosen = [](std::uint64_t max_bytes) {
        const std::uint64_t chunk = ringcast::default_chunk_bytes(1, 1, 10, max_bytes, 0, kPage);
        const Geometry plan = plan_geometry(1, 1, chunk, 10, max_bytes, 0, kPage);
        check_plan(plan, kPage);
        CHECK(max_bytes == 0 || plan.control_bytes + plan.data_budget <= max_bytes);
        return plan;
    };
    CHECK(chosen(0).max_chunk_bytes == 24 * kMiB);
    CHECK(chosen(64 * kMiB).max_chunk_bytes == 24 * kMiB);
    CHECK(chosen(8 * kMiB).max_chunk_bytes == 8 * kMiB - chosen(8 * kMiB).control_bytes);
    CHECK(chosen(8 * kMiB).max_leases == chosen(0).max_leases);
    const std::uint64_t least = plan_geometry(1, 1, ringcast::kInlineBytes, 10, 0, 10, kPage).control_bytes;
    for (std::uint64_t max_bytes = least; max_bytes < kMiB; max_bytes += kPage) {
        const Geometry plan = chosen(max_bytes);
        CHECK(plan.max_leases >= 10 && plan.max_leases <= chosen(0).max_leases);
    }
    CHECK_THROWS(chosen(least - kPage), invalid_argument);
    // What was asked for by name does not.
    CHECK_THROWS(plan_geometry(1, 1, 24 * kMiB, 10, 8 * kMiB, 0, kPage), invalid_argument);
    CHECK_THROWS(plan_geometry(1, 1, 1000, 10, kMiB / 16, 1000, kPage), invalid_argument);
}
