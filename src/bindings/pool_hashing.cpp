// chunk_keys and keys_from_hashes: what is hashed is documented byte for byte in docs/keys.md.
#include <nanobind/nanobind.h>
#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "modules.hpp"
#include "pool_keys.hpp"
#include "py_errors.hpp"
#include "sha256.hpp"
#include "token_ids.hpp"
#include "unlocked.hpp"

namespace ringcast::bindings {

namespace nb = nanobind;
using namespace nb::literals;
using pool::Digest;
using pool::kDigestBytes;

namespace {

constexpr std::size_t kTokenBytes = 4;
constexpr std::size_t kWorthUnlocking = 64 << 10;  // bytes to be hashed: some 50 microseconds
constexpr std::int64_t kMostTokens = std::int64_t{1} << 30;

// Where a run of new keys begins.
struct Start {
    Start(nb::handle space_given, nb::handle after_given) : space(read_space(space_given)) {
        if (after_given.is_none()) return;
        after = &keys_of("after", after_given);
        if (after->space().digest != space->digest)
            raise("ArgumentError", "after is of another namespace; keys continue only keys of their own");
        space = after->shared_space();
    }
    const Digest* parent() const noexcept { return after == nullptr ? nullptr : after->last(); }
    Keys::Room room(std::size_t count) const { return after == nullptr ? new_room(count) : after->room_behind(count); }
    Keys keys(Keys::Room&& room, std::size_t count) const {
        return Keys(space, std::move(room.buffer), room.digests, count, parent());
    }

    std::shared_ptr<const KeySpace> space;
    const Keys* after = nullptr;
};

// Hashes `count` chunks of `chunk` tokens each; returns the first token that is none, or tokens.size().
std::size_t hash_chunks(Sha256& sha256, const TokenIds& tokens, const Digest& before, std::size_t chunk,
                        std::size_t count, Digest* into) {
    std::vector<std::byte> hashed(kDigestBytes + std::min(chunk, tokens.size()) * kTokenBytes);
    Digest parent = before;
    for (std::size_t i = 0; i < count; ++i) {
        std::memcpy(hashed.data(), &parent, kDigestBytes);
        const std::size_t wrong = tokens.read(i * chunk, std::span(hashed).subspan(kDigestBytes));
        if (wrong != tokens.size()) return wrong;
        into[i] = parent = sha256(hashed);
    }
    // What is left over has no key, but must be tokens, too.
    const std::size_t rest = tokens.size() - count * chunk;
    return tokens.read(count * chunk, std::span(hashed).subspan(kDigestBytes, rest * kTokenBytes));
}

Keys chunk_keys(nb::handle token_ids, nb::handle space, nb::handle chunk_size, nb::handle after, bool by_hashlib) {
    const Start start(space, after);
    const auto chunk = static_cast<std::size_t>(parse_int("chunk_size", chunk_size.ptr(), 1, kMostTokens));
    TokenIds tokens(token_ids);
    const std::size_t count = tokens.size() / chunk;
    Keys::Room room = start.room(count);
    Sha256 sha256(by_hashlib);
    const Digest before = start.parent() == nullptr ? start.space->digest : *start.parent();
    std::size_t wrong = tokens.size();
    if (tokens.in_list() && sha256.is_free()) {
        wrong = hash_chunks(sha256, tokens, before, chunk, count, room.digests);
        if (wrong == tokens.size()) return start.keys(std::move(room), count);
    }
    tokens.read_list();
    if (tokens.size() / chunk != count) raise("ArgumentError", "token_ids changed while it was read");
    std::optional<Unlocked> unlocked;
    if (sha256.is_free() && count * chunk * kTokenBytes >= kWorthUnlocking) unlocked.emplace();
    wrong = hash_chunks(sha256, tokens, before, chunk, count, room.digests);
    unlocked.reset();
    if (wrong != tokens.size()) tokens.refuse(wrong);
    return start.keys(std::move(room), count);
}

// Appends the bytes of a block's hash: bytes as they are, an int as eight bytes, little-endian.
void append_hash(std::vector<std::byte>& to, nb::handle hash, std::size_t index) {
    const auto what = [&] { return "block_hashes[" + std::to_string(index) + "]"; };
    PyObject* object = hash.ptr();
    if (PyBytes_Check(object) || PyByteArray_Check(object) || PyMemoryView_Check(object)) {
        Py_buffer view;
        if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) != 0) throw nb::python_error();
        const auto* bytes = static_cast<const std::byte*>(view.buf);
        to.insert(to.end(), bytes, bytes + view.len);
        PyBuffer_Release(&view);
        if (to.size() == kDigestBytes) raise("ArgumentError", what() + " is empty; a hash has at least one byte");
        return;
    }
    if (PyBool_Check(object) || !PyIndex_Check(object))
        raise("ArgumentTypeError", what() + " must be bytes or an int, not of type " +
                                       nb::cast<std::string>(nb::str(hash.type().attr("__qualname__"))));
    const nb::object integer = owned(PyNumber_Index(object));
    std::uint64_t value = PyLong_AsUnsignedLongLong(integer.ptr());
    if (value == static_cast<std::uint64_t>(-1) && PyErr_Occurred() != nullptr) {
        nb::python_error cause;
        raise_from(cause, "ArgumentError",
                   what() + " is " + nb::cast<std::string>(nb::str(integer)) +
                       "; an int is from 0 to 2**64 - 1, what is longer comes as bytes");
    }
    for (int i = 0; i < 8; ++i, value >>= 8) to.push_back(static_cast<std::byte>(value & 0xff));
}

Keys keys_from_hashes(nb::handle block_hashes, nb::handle space, nb::handle every, nb::handle after, bool by_hashlib) {
    const Start start(space, after);
    const auto step = static_cast<std::size_t>(parse_int("every", every.ptr(), 1, kMostTokens));
    if (PyUnicode_Check(block_hashes.ptr()) || PyBytes_Check(block_hashes.ptr()) ||
        !PySequence_Check(block_hashes.ptr()))
        raise("ArgumentTypeError", "block_hashes must be a sequence of hashes, not of type " +
                                       nb::cast<std::string>(nb::str(block_hashes.type().attr("__qualname__"))));
    const nb::object hashes = owned(PySequence_Tuple(block_hashes.ptr()));
    const std::size_t count = static_cast<std::size_t>(PyTuple_GET_SIZE(hashes.ptr())) / step;
    Keys::Room room = start.room(count);
    if (count == 0) return start.keys(std::move(room), 0);
    Sha256 sha256(by_hashlib);
    std::vector<std::byte> hashed(kDigestBytes);
    std::memcpy(hashed.data(), &start.space->digest, kDigestBytes);
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t at = (i + 1) * step - 1;
        hashed.resize(kDigestBytes);
        append_hash(hashed, PyTuple_GET_ITEM(hashes.ptr(), static_cast<Py_ssize_t>(at)), at);
        room.digests[i] = sha256(hashed);
    }
    return start.keys(std::move(room), count);
}

}  // namespace

void bind_pool_hashing(nb::module_& module) {
    module.def("chunk_keys", &chunk_keys, "token_ids"_a.none(), "space"_a.none(), "chunk_size"_a.none(),
               "after"_a.none(), "by_hashlib"_a = false);
    module.def("keys_from_hashes", &keys_from_hashes, "block_hashes"_a.none(), "space"_a.none(), "every"_a.none(),
               "after"_a.none(), "by_hashlib"_a = false);
}

}  // namespace ringcast::bindings
