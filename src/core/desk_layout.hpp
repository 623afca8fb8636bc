// The memory of a link's desk.
//
//     0       DeskHeader    what it is; written before anybody can see it, never changed
//     4096    DeskControl   words of the link
//     8192    DeskPlace[]   one for each local end that is registered with the link
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "area_kind.hpp"
#include "fault_points.hpp"
#include "layout.hpp"
#include "parked.hpp"
#include "platform/policy.hpp"

namespace ringcast {

inline constexpr std::uint64_t kDeskMagic = 0x314b'4e49'4c47'4e52;  // "RNGLINK1" in memory order, as kMagic
inline constexpr std::uint32_t kDeskLayoutVersion = 1;
inline constexpr std::uint32_t kDeskPlaces = 512;

struct DeskHeader {
    std::uint64_t magic;  // as far as `epoch` an AreaHeader
    std::uint32_t layout_version;
    std::uint32_t byte_order;
    std::uint64_t total_bytes;
    std::uint64_t epoch;
    char job[96];
    std::uint32_t creator_pid;
    std::uint32_t places;
    std::uint64_t creator_pid_namespace;
    std::int64_t created_at_ns;  // wall clock, for people
    char release[kReleaseBytes];
};

// Does the link take new ends? While it looks whether anybody is there it says so, and who comes looks again.
enum class DeskLife : std::uint32_t { open = 0, closing = 1, closed = 2 };

struct DeskControl {
    Parked<platform::Native> link_parked;    // the link's desk thread
    std::atomic<std::uint32_t> initialised;  // 1, stored last by the creator
    std::atomic<DeskLife> life;
};

// A place's word: whose it is, the number of the request, and where that is. A holder changes all of it, the link only
// `asked` into `answered` of the very request that it answers. So what is meant for a dead holder, or for a request that
// was given up, finds another word and goes nowhere.
enum class DeskPhase : std::uint8_t { idle = 0, asked = 1, answered = 2 };
inline constexpr std::uint64_t desk_word(std::uint32_t incarnation, std::uint32_t number, DeskPhase phase) noexcept {
    return std::uint64_t{incarnation} << 32 | std::uint64_t{number & 0xff'ffff} << 8 | static_cast<std::uint8_t>(phase);
}
inline constexpr std::uint32_t desk_incarnation(std::uint64_t word) noexcept {
    return static_cast<std::uint32_t>(word >> 32);
}
inline constexpr std::uint32_t desk_number(std::uint64_t word) noexcept {
    return static_cast<std::uint32_t>(word >> 8) & 0xff'ffff;
}
inline constexpr DeskPhase desk_phase(std::uint64_t word) noexcept { return static_cast<DeskPhase>(word & 0xff); }

// What one side says to the other. Who reads may find it being written, and then does not use what it has read: the words
// are atomic, all relaxed, and the place's word orders them.
class DeskText {
public:
    static constexpr std::size_t kBytes = 984;

    void store(std::string_view text) noexcept {
        bytes_.store(static_cast<std::uint32_t>(text.size()), std::memory_order_relaxed);
        for (std::size_t i = 0; i * 8 < text.size(); ++i) {
            std::uint64_t word = 0;
            std::memcpy(&word, text.data() + i * 8, std::min<std::size_t>(8, text.size() - i * 8));
            words_[i].store(word, std::memory_order_relaxed);
            reached(FaultPoint::desk_text_word);
        }
    }
    std::string load() const {
        std::string text(std::min<std::size_t>(bytes_.load(std::memory_order_relaxed), kBytes), '\0');
        for (std::size_t i = 0; i * 8 < text.size(); ++i) {
            const std::uint64_t word = words_[i].load(std::memory_order_relaxed);
            std::memcpy(text.data() + i * 8, &word, std::min<std::size_t>(8, text.size() - i * 8));
        }
        return text;
    }

private:
    std::atomic<std::uint32_t> bytes_;
    std::atomic<std::uint64_t> words_[kBytes / 8];
};

struct DeskPlace {
    std::atomic<std::uint64_t> word;
    Parked<platform::Native> parked;  // the holder, while it waits for an answer
    DeskText request;
    alignas(1024) DeskText reply;
};

inline constexpr std::uint64_t kDeskControlOffset = 4096;
inline constexpr std::uint64_t kDeskPlacesOffset = 8192;
inline constexpr std::uint64_t kDeskBytes = kDeskPlacesOffset + kDeskPlaces * sizeof(DeskPlace);

// Two builds that disagree on any of this must differ in kDeskLayoutVersion.
static_assert(offsetof(DeskHeader, total_bytes) == offsetof(AreaHeader, total_bytes));
static_assert(offsetof(DeskHeader, epoch) == offsetof(AreaHeader, epoch));
static_assert(offsetof(DeskHeader, creator_pid) == offsetof(Header, creator_pid));
static_assert(offsetof(DeskHeader, release) == offsetof(Header, release) && sizeof(DeskHeader) == 176);
static_assert(offsetof(DeskControl, initialised) == 16 && offsetof(DeskControl, life) == 20);
static_assert(offsetof(DeskPlace, parked) == 8 && offsetof(DeskPlace, request) == 24);
static_assert(offsetof(DeskPlace, reply) == 1024 && sizeof(DeskText) == 992 && sizeof(DeskPlace) == 2048);

}  // namespace ringcast
