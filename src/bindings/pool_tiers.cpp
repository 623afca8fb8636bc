// The Python type FileTier, and what other tiers use: the checksum, and where a buffer lies.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <array>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "figures.hpp"
#include "modules.hpp"
#include "pool/checksum.hpp"
#include "pool/file_tier.hpp"
#include "py_errors.hpp"
#include "unlocked.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ringcast::bindings {

namespace {

using pool::FileTier;
using pool::TierOutcome;

// A buffer of Python's for as long as this lives; raises BufferError if it is not contiguous, or not to be written to.
class Bytes {
public:
    Bytes(nb::handle object, bool writable) {
        if (PyObject_GetBuffer(object.ptr(), &view_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0)
            throw nb::python_error();
    }
    ~Bytes() { PyBuffer_Release(&view_); }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
    std::span<std::byte> span() const noexcept {
        return {static_cast<std::byte*>(view_.buf), static_cast<std::size_t>(view_.len)};
    }

private:
    Py_buffer view_{};
};

pool::Digest digest_of(nb::handle key) {
    if (!PyBytes_Check(key.ptr()) || PyBytes_GET_SIZE(key.ptr()) != static_cast<Py_ssize_t>(pool::kDigestBytes))
        raise("ArgumentError", "a key must be 32 bytes");
    pool::Digest digest;
    std::memcpy(&digest, PyBytes_AS_STRING(key.ptr()), pool::kDigestBytes);
    return digest;
}

FileTier& usable(FileTier& tier) {
    if (tier.in_forked_child()) raise("ForkedError", "this tier belongs to a parent process");
    return tier;
}

const char* word_of(TierOutcome outcome) noexcept {
    switch (outcome) {
        case TierOutcome::done:
            return "done";
        case TierOutcome::absent:
            return "absent";
        case TierOutcome::refused:
            return "refused";
        case TierOutcome::failed:
            return "failed";
        case TierOutcome::corrupt:
            return "corrupt";
    }
    return "failed";
}

template <class Body>
const char* outcome_of(Body&& body) {
    TierOutcome outcome = TierOutcome::failed;
    {
        const Unlocked unlocked;
        outcome = body();
    }
    return word_of(outcome);
}

// Of each key and its buffer, one after the other: they are gathered with the interpreter's lock, and moved without it.
template <class Body>
nb::list outcomes_of(FileTier& tier, const nb::list& keys, const nb::list& buffers, bool writable, Body&& body) {
    if (keys.size() != buffers.size()) raise("ArgumentError", "there must be a buffer for each key");
    std::vector<pool::Digest> digests;
    std::deque<Bytes> bytes;
    for (std::size_t i = 0; i < keys.size(); ++i) {
        digests.push_back(digest_of(keys[i]));
        bytes.emplace_back(buffers[i], writable);
    }
    std::vector<TierOutcome> outcomes(digests.size());
    {
        const Unlocked unlocked;
        for (std::size_t i = 0; i < digests.size(); ++i) outcomes[i] = body(tier, digests[i], bytes[i].span());
    }
    nb::list words;
    for (const TierOutcome outcome : outcomes) words.append(word_of(outcome));
    return words;
}

nb::dict described(const FileTier& tier) {
    using Counts = FileTier::Counts;
    static constexpr std::tuple kFigures{std::pair{"stores", &Counts::stores},
                                         std::pair{"stored", &Counts::stored},
                                         std::pair{"stored_bytes", &Counts::stored_bytes},
                                         std::pair{"store_ns", &Counts::store_ns},
                                         std::pair{"loads", &Counts::loads},
                                         std::pair{"hits", &Counts::hits},
                                         std::pair{"loaded_bytes", &Counts::loaded_bytes},
                                         std::pair{"load_ns", &Counts::load_ns},
                                         std::pair{"refused", &Counts::refused},
                                         std::pair{"failed", &Counts::failed},
                                         std::pair{"corrupt", &Counts::corrupt},
                                         std::pair{"evicted", &Counts::evicted},
                                         std::pair{"copied", &Counts::copied}};
    nb::dict all;
    all["era"] = tier.era();
    all["slots"] = tier.slots();
    all["used"] = tier.used();
    all["direct"] = tier.direct();
    all["preallocated"] = tier.preallocated();
    all["indexed_in_ns"] = tier.indexed_in_ns();
    put(all, tier.counts(), kFigures);
    all["last_error"] = tier.last_error();
    return all;
}

}  // namespace

void bind_pool_tiers(nb::module_& module) {
    nb::class_<FileTier>(module, "FileTier", "A tier in one file of slots.")
        .def(nb::new_([](std::string path, std::uint64_t size, std::uint64_t chunk_bytes, bool direct) {
                 const FileTier::Options options{std::move(path), size, chunk_bytes, direct};
                 const Unlocked unlocked;
                 return new FileTier(options);
             }),
             "path"_a, "size"_a, "chunk_bytes"_a, "direct"_a)
        .def(
            "store",
            [](FileTier& tier, nb::list keys, nb::list chunks) {
                return outcomes_of(usable(tier), keys, chunks, false,
                                   [](auto& it, const auto& key, auto bytes) { return it.store(key, bytes, {}); });
            },
            "keys"_a, "chunks"_a)
        .def(
            "load",
            [](FileTier& tier, nb::list keys, nb::list into) {
                return outcomes_of(usable(tier), keys, into, true,
                                   [](auto& it, const auto& key, auto bytes) { return it.load(key, bytes); });
            },
            "keys"_a, "into"_a)
        .def(
            "exists", [](FileTier& tier, nb::handle key) { return usable(tier).exists(digest_of(key)); }, "key"_a)
        .def(
            "remove",
            [](FileTier& tier, nb::handle key) {
                const pool::Digest digest = digest_of(key);
                return outcome_of([&, &it = usable(tier)] { return it.remove(digest); });
            },
            "key"_a)
        .def(
            "clear",
            [](FileTier& tier, std::uint64_t era) {
                FileTier& it = usable(tier);
                const Unlocked unlocked;
                it.clear(era);
            },
            "era"_a)
        .def("sync", [](FileTier& tier) { return outcome_of([&it = usable(tier)] { return it.sync(); }); })
        .def("close",
             [](FileTier& tier) {
                 const Unlocked unlocked;
                 tier.close();
             })
        .def_prop_ro("era", &FileTier::era)
        .def("described", [](FileTier& tier) { return described(usable(tier)); });
    module.def(
        "checksum",
        [](nb::handle bytes) {
            const Bytes held(bytes, false);
            const Unlocked unlocked;
            return pool::checksum_of(held.span());
        },
        "bytes"_a);
    module.def(
        "address", [](nb::handle bytes) { return reinterpret_cast<std::uintptr_t>(Bytes(bytes, false).span().data()); },
        "bytes"_a);
}

}  // namespace ringcast::bindings
