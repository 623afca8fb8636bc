// What two links say to each other over a stream's two connections, once each has shown that it has the queue's key.
//
//     data        hello, welcome or refused; then batch, or begin and body..., for each message; end
//     control     hello; then ack, ping and word, both ways
#pragma once

#include <cstddef>
#include <cstdint>

#include "layout.hpp"

namespace ringcast::link {

enum class Kind : std::uint8_t { hello = 1, welcome, refused, batch, begin, body, end, ack, ping, word };

// Bytes of a record's payload. Each record is a send, a proof and some wake-ups: of 1 MiB, a message of that size is a quarter
// faster than of 256 KiB.
inline constexpr std::size_t kMaxRecord = 1 << 20;
// So many bytes of small messages share a record: more would wait for each other.
inline constexpr std::size_t kBatchBytes = 256 << 10;
// A message of so many bytes or more has records of its own, which are received where it will lie.
inline constexpr std::uint64_t kLargeBytes = 96 << 10;

// Before the payload of each record, and, but for padding, what a batch has before each message (BatchHead).
struct RecordHead {
    std::uint32_t length;
    std::uint8_t kind;
    std::uint8_t zeros[3];
};
static_assert(sizeof(RecordHead) == 8);

// Of a large message, whose bytes follow in records of their own.
struct Beginning {
    static constexpr std::size_t kBytes = 10;
    std::uint64_t length;
    std::uint8_t encoding;
    std::uint8_t framed;
};

}  // namespace ringcast::link
