#include "pool/memory.hpp"

#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <new>

#include "errors.hpp"
#include "geometry.hpp"
#include "locks.hpp"
#include "platform/clock.hpp"
#include "platform/process.hpp"

namespace ringcast::pool {

namespace {

Origin origin_of(const std::byte* bytes) {
    PoolHeader header;
    std::memcpy(&header, bytes, sizeof header);
    return origin_in(header, text_of(header.user_name, sizeof header.user_name));
}

bool is_kept(const std::byte* bytes) {
    PoolHeader header;
    std::memcpy(&header, bytes, sizeof header);
    return header.layout_version == kPoolLayoutVersion && header.kept != 0;
}

// Of a pool's journal: some 6 MiB at most.
constexpr std::uint32_t kLeastEvents = 1024;
constexpr std::uint32_t kMostEvents = 1u << 16;
constexpr std::uint32_t kEntriesASpace = 32;
constexpr std::uint32_t kLeastSpaces = 16;

void check_range(const char* what, std::uint64_t value, std::uint64_t least, std::uint64_t most) {
    if (value < least || value > most)
        throw Error(ErrorCode::invalid_argument, std::string(what) + " must be from " + std::to_string(least) + " to " +
                                                     std::to_string(most) + ", not " + std::to_string(value));
}

// What the header says must be what this build would have made of the same sizes.
PoolGeometry checked_geometry(const std::string& name, const PoolHeader& header) {
    PoolGeometry plan;
    try {
        plan = plan_pool(header.capacity, header.n_seats, header.n_pins, header.n_entries);
    } catch (const Error& error) {
        throw_mismatch(name, std::string("its header is damaged: ") + error.what());
    }
    const PoolGeometry said{.capacity = header.capacity,
                            .seats = header.n_seats,
                            .pins = header.n_pins,
                            .entries = header.n_entries,
                            .buckets = header.n_buckets,
                            .events = header.n_events,
                            .spaces = header.n_spaces,
                            .seat_bytes = header.seat_bytes,
                            .seats_offset = header.seats_offset,
                            .entries_offset = header.entries_offset,
                            .records_offset = header.records_offset,
                            .cells_offset = header.cells_offset,
                            .events_offset = header.events_offset,
                            .spaces_offset = header.spaces_offset,
                            .data_offset = header.data_offset,
                            .total_bytes = header.total_bytes};
    if (!(said == plan)) throw_mismatch(name, "its header is damaged: its sizes do not fit together");
    return plan;
}

std::string sizes_of(const PoolGeometry& g) {
    return in_units(g.capacity) + ", " + std::to_string(g.entries) + " entries, " + std::to_string(g.seats) +
           " seats of " + std::to_string(g.pins) + " pins";
}

}  // namespace

const AreaKind kPoolArea{.noun = "pool",
                         .magic = kPoolMagic,
                         .layout_version = kPoolLayoutVersion,
                         .header_bytes = sizeof(PoolHeader),
                         .head_bytes = kBellOffset,
                         .finished_word = kServerWordsOffset + offsetof(ServerWords<Native>, initialised),
                         .origin = &origin_of,
                         .smaller = "capacity",
                         .life_locks = seat_lock(kMaxSeats),
                         .is_kept = &is_kept};

PoolGeometry plan_pool(std::uint64_t capacity, std::uint32_t seats, std::uint32_t pins, std::uint32_t entries) {
    const std::uint64_t page = platform::page_bytes();
    check_range("a pool's capacity in bytes", capacity, 64 * 1024, std::uint64_t{1} << 44);
    check_range("the number of a pool's seats", seats, 1, kMaxSeats);
    check_range("the number of a seat's pins", pins, 16, kMaxPins);
    PoolGeometry plan;
    plan.capacity = round_up(capacity, page);
    plan.seats = seats;
    plan.pins = pins;
    plan.entries =
        entries != 0
            ? entries
            : static_cast<std::uint32_t>(std::clamp<std::uint64_t>(plan.capacity / kBytesAnEntry, 64, kMaxEntries));
    check_range("the number of a pool's entries", plan.entries, 1, kMaxEntries);
    plan.buckets = std::max(plan.entries / kCellsInBucket * kCellsAnEntry, kLeastBuckets);
    plan.spaces = std::clamp(plan.entries / kEntriesASpace, kLeastSpaces, kMostSpaces);
    plan.events = std::bit_floor(std::clamp(plan.entries, kLeastEvents, kMostEvents));
    plan.seat_bytes = round_up(sizeof(NativePoolSeat) + std::uint64_t{plan.pins - 1} * sizeof(std::uint64_t) +
                                   std::uint64_t{plan.pins} * sizeof(std::uint32_t),
                               std::max<std::uint64_t>(page, 4096));
    plan.seats_offset = round_up(kSeatsFrom, page);
    plan.entries_offset = plan.seats_offset + plan.seats * plan.seat_bytes;
    plan.records_offset = plan.entries_offset + std::uint64_t{plan.entries} * sizeof(NativeEntry);
    plan.cells_offset = plan.records_offset + std::uint64_t{plan.entries} * sizeof(EntryRecord);
    plan.events_offset =
        round_up(plan.cells_offset + std::uint64_t{plan.buckets} * kCellsInBucket * sizeof(std::uint64_t), page);
    plan.spaces_offset = round_up(plan.events_offset + std::uint64_t{plan.events} * sizeof(EventRecord), page);
    plan.data_offset = round_up(plan.spaces_offset + std::uint64_t{plan.spaces} * sizeof(SpaceRecord), page);
    plan.total_bytes = plan.data_offset + plan.capacity;
    return plan;
}

void PoolMemory::map(const platform::SharedFile& file, bool writable) {
    file_ = file.again();
    facts_ = file_.facts();
    all_ = Mapping(static_cast<std::byte*>(file.map_large(0, header_.total_bytes, writable)), header_.total_bytes);
    bytes_ = all_.begin();
    platform::exclude_from_core_dumps(bytes_, header_.total_bytes);
    if (writable) {
        bell_ = bytes_ + kBellOffset;
    } else {
        const std::uint64_t from = kBellOffset / platform::page_bytes() * platform::page_bytes();
        const std::uint64_t bytes = header_.seats_offset - from;
        own_bell_ = Mapping(static_cast<std::byte*>(file.map(from, bytes, true)), bytes);
        bell_ = own_bell_.begin() + (kBellOffset - from);
    }
    index_.entries = at<NativeEntry>(header_.entries_offset);
    index_.cells = at<Cell<Native>>(header_.cells_offset);
    index_.n_entries = header_.n_entries;
    index_.n_buckets = header_.n_buckets;
    index_.seed = header_.seed;
}

void PoolMemory::initialise() {
    std::memcpy(bytes_, &header_, sizeof header_);
    new (&words()) ServerWords<Native>{};
    new (&bell()) Bell<Native>{};
    // Seats, entries, records and cells are right as zeros, which new memory is: vacant, free, empty.
    static_assert(static_cast<int>(EntryState::free) == 0 && static_cast<int>(PoolSeatState::vacant) == 0 &&
                  static_cast<int>(MailPhase::idle) == 0);
    words().initialised.store(1, std::memory_order_release);  // release [initialised]
}

std::unique_ptr<PoolMemory> PoolMemory::create(const Request& request) {
    std::unique_ptr<PoolMemory> pool(new PoolMemory);
    const PoolGeometry& plan = request.geometry;
    PoolHeader& header = pool->header_;
    header.magic = kPoolMagic;
    header.layout_version = kPoolLayoutVersion;
    header.byte_order = kByteOrder;
    header.total_bytes = plan.total_bytes;
    header.epoch = platform::random_u64();
    header.capacity = plan.capacity;
    header.seed = platform::random_u64();
    header.n_seats = plan.seats;
    header.n_pins = plan.pins;
    header.n_entries = plan.entries;
    header.n_buckets = plan.buckets;
    header.n_events = plan.events;
    header.n_spaces = plan.spaces;
    header.seat_bytes = plan.seat_bytes;
    header.seats_offset = plan.seats_offset;
    header.entries_offset = plan.entries_offset;
    header.records_offset = plan.records_offset;
    header.cells_offset = plan.cells_offset;
    header.events_offset = plan.events_offset;
    header.spaces_offset = plan.spaces_offset;
    header.data_offset = plan.data_offset;
    header.creator_pid = platform::process_id();
    header.kept = request.kept ? 1 : 0;
    header.checksums = request.checksums ? 1 : 0;
    header.creator_pid_namespace = platform::pid_namespace();
    header.created_at_ns = platform::wall_clock_ns();
    copy_text(header.release, sizeof header.release, request.release);
    copy_text(header.user_name, sizeof header.user_name, request.user_name);
    const auto fill = [&](const platform::SharedFile& file) {
        pool->map(file, true);
        pool->initialise();
    };
    pool->area_ =
        Area::create_anew(kPoolArea, request.name, plan.total_bytes, plan.total_bytes, fill, request.progress);
    return pool;
}

std::unique_ptr<PoolMemory> PoolMemory::open(const std::string& name, const std::string& release, bool writable) {
    std::unique_ptr<PoolMemory> pool(new PoolMemory);
    pool->area_ = Area::attach(
        kPoolArea, name, release,
        [&](const std::byte* head) {
            std::memcpy(&pool->header_, head, sizeof(PoolHeader));
            return checked_geometry(name, pool->header_).total_bytes;
        },
        [&](const platform::SharedFile& file) { pool->map(file, writable); });
    return pool;
}

std::unique_ptr<PoolMemory> PoolMemory::attach(const std::string& name, const std::string& release) {
    return open(name, release, false);
}

// Null: it is gone, or going.
std::unique_ptr<PoolMemory> PoolMemory::adopt(const Request& request) {
    std::unique_ptr<PoolMemory> pool;
    try {
        pool = open(request.name, request.release, true);
    } catch (const Error& error) {
        if (error.code() == ErrorCode::segment_not_found) return nullptr;
        throw;
    }
    switch (pool->area_->join(kCreatorLock)) {
        case Area::Joined::gone:
            return nullptr;
        case Area::Joined::taken:
            if (pool->words().life.load(std::memory_order_relaxed) == PoolLife::closed) return nullptr;
            throw Error(ErrorCode::segment_exists,
                        pool->label() + " has a living server already (" +
                            platform::describe_process(pool->words().pid.load(std::memory_order_relaxed),
                                                       pool->words().pid_namespace.load(std::memory_order_relaxed)) +
                            "); end that one first, or choose another name",
                        Peer{std::nullopt, pool->words().pid.load(std::memory_order_relaxed)}, EEXIST);
        case Area::Joined::joined:
            break;
    }
    if (pool->words().life.load(std::memory_order_relaxed) == PoolLife::closed)
        return nullptr;  // its end was just cut short
    const PoolGeometry its = checked_geometry(request.name, pool->header_);
    if (!(its == request.geometry))
        throw_mismatch(request.name, "what an earlier server left of " + pool->label() + " has " + sizes_of(its) +
                                         ", and this one is to have " + sizes_of(request.geometry) +
                                         ": start it with the same sizes to take it over, or remove it first (ringcast "
                                         "pool rm)");
    pool->area_->take_over();
    return pool;
}

PoolMemory::Served PoolMemory::serve(const Request& request) {
    constexpr int kAttempts = 1000;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
        if (auto pool = adopt(request)) return {std::move(pool), true};
        try {
            return {create(request), false};
        } catch (const Error& error) {
            if (error.code() != ErrorCode::segment_exists) throw;
        }
        platform::nap();
    }
    throw Error(
        ErrorCode::segment_exists,
        "the name '" + request.name + "' is being made and removed by other processes all the time; choose another",
        EEXIST);
}

PoolMemory::~PoolMemory() {
    if (!in_forked_child()) return;
    // The memory is its ancestor's: nothing is unmapped here.
    all_.forget();
    own_bell_.forget();
    own_seat_.forget();
    own_data_.forget();
}

std::string PoolMemory::label() const {
    const std::string its = text_of(header_.user_name, sizeof header_.user_name);
    return its.empty() ? "pool segment '" + name() + "'" : "pool '" + its + "'";
}

std::string PoolMemory::server() const {
    return "its server (" +
           platform::describe_process(words().pid.load(std::memory_order_relaxed),
                                      words().pid_namespace.load(std::memory_order_relaxed)) +
           ")";
}

void PoolMemory::wait_for_change(std::uint32_t seen, std::int64_t most_ns) const noexcept {
    constexpr std::int64_t kMostNs = 250'000'000;  // then callers ask whether the server lives
    bell().changes_wanted.store(1, std::memory_order_relaxed);
    Native::fence_seq_cst();  // [changes-wanted]: pairs with the server's [signal]
    auto& changes = words().changes;
    if (changes.load(std::memory_order_relaxed) != seen) return;
    Native::futex_wait(changes, seen, std::min(most_ns, kMostNs));
}

const platform::SharedFile& PoolMemory::file() const {
    bool ours = false;
    try {
        const auto now = file_.facts();
        ours = now.device == facts_.device && now.inode == facts_.inode;
    } catch (const Error&) {
    }
    if (!ours)
        throw Error(
            ErrorCode::system,
            "the descriptor of " + label() +
                " was closed by other code of this process, such as a daemonizer's os.closerange: connect again",
            EBADF);
    return file_;
}

std::optional<std::uint32_t> PoolMemory::take_seat() {
    for (std::uint32_t i = 0; i < header_.n_seats; ++i) {
        if (seat_state(seat(i).state.load(std::memory_order_acquire)) != PoolSeatState::vacant)
            continue;  // acquire [seat]
        const auto joined = area_->join(seat_lock(i));
        if (joined == Area::Joined::gone)
            throw Error(ErrorCode::segment_not_found, label() + " has just been removed", ENOENT);
        if (joined == Area::Joined::taken) continue;
        // Under its lock: a seat that was given back, taken and left since is not vacant before the server has seen to it.
        const std::uint64_t word = seat(i).state.load(std::memory_order_acquire);  // acquire [seat]
        if (seat_state(word) != PoolSeatState::vacant) {
            locks().unlock(seat_lock(i));
            continue;
        }
        own_seat_ = map_seat(i);
        return i;
    }
    return std::nullopt;
}

Mapping PoolMemory::map_seat(std::uint32_t i) const {
    return {
        static_cast<std::byte*>(file().map(header_.seats_offset + i * header_.seat_bytes, header_.seat_bytes, true)),
        header_.seat_bytes};
}

std::byte* PoolMemory::writable_data() {
    const std::lock_guard guard(mapping_data_);
    if (own_data_.begin() == nullptr) {
        own_data_ = Mapping(static_cast<std::byte*>(file().map_large(header_.data_offset, header_.capacity, true)),
                            header_.capacity);
        platform::exclude_from_core_dumps(own_data_.begin(), header_.capacity);
    }
    return own_data_.begin();
}

std::pair<Mapping, std::byte*> PoolMemory::map_privately(std::uint64_t offset, std::uint64_t bytes) const {
    const std::uint64_t page = platform::page_bytes();
    const std::uint64_t begin = (header_.data_offset + offset) / page * page;
    const std::uint64_t end = round_up(header_.data_offset + offset + bytes, page);
    auto* const mapped = static_cast<std::byte*>(file().map_private(end - begin, begin));
    if (mapped == nullptr) return {};
    return {Mapping(mapped, end - begin), mapped + (header_.data_offset + offset - begin)};
}

}  // namespace ringcast::pool
