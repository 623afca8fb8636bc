// What is told apart of areas: the magic, the version and the words that differ between a queue and whatever else lies
// in a named file of shared memory. A sweep of one kind passes the others by.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace ringcast {

// What an area of any kind and version begins with.
struct AreaHeader {
    std::uint64_t magic;
    std::uint32_t layout_version;
    std::uint32_t byte_order;
    std::uint64_t total_bytes;
    std::uint64_t epoch;  // random: tells this area from any other that had the name
};

inline constexpr std::uint32_t kByteOrder = 0x0102'0304;

// Where an area is from, by its header.
struct Origin {
    std::string user_name;  // empty if the user gave none
    std::string release;
    std::uint32_t creator_pid;
    std::uint64_t creator_pid_namespace;
};

constexpr const char* kSmallerQueue = "max_chunk_bytes, max_chunks, max_leases or max_bytes";

struct AreaKind {
    const char* noun;  // in messages: "queue"
    std::uint64_t magic;
    std::uint32_t layout_version;
    std::size_t header_bytes;     // begins with an AreaHeader
    std::size_t head_bytes;       // what an attacher looks at before it knows any size: the header, and the next word
    std::uint64_t finished_word;  // offset of the 32-bit word that the creator stores last, as 1
    // Of a header with this kind's magic. Those of other versions have at least the release at the same place.
    Origin (*origin)(const std::byte* header);
    const char* smaller = kSmallerQueue;  // in messages: which arguments take less memory if they are smaller
    // It lives while anybody holds one of the lock bytes before this one: 1, if it dies with its creator.
    std::uint64_t life_locks = 1;
    // Is it to stay when it is dead? Null: none of this kind is.
    bool (*is_kept)(const std::byte* header) = nullptr;
};

}  // namespace ringcast
