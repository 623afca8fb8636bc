#include "aead.hpp"

#include <nanobind/nanobind.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "link/wire.hpp"
#include "openssl.hpp"
#include "platform/clock.hpp"
#include "py_errors.hpp"

namespace nb = nanobind;

namespace ringcast::bindings {

using link::Aead;
using link::Key;
using link::kTagBytes;
using link::Nonce;
using link::Piece;
using link::Pieces;

namespace {

constexpr int kGetTag = 0x10, kSetTag = 0x11;  // EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_TAG

unsigned char* raw(std::byte* bytes) noexcept { return reinterpret_cast<unsigned char*>(bytes); }
const unsigned char* raw(const std::byte* bytes) noexcept { return reinterpret_cast<const unsigned char*>(bytes); }

// What is used of libcrypto: the same in OpenSSL from 1.1 on, LibreSSL and their like.
struct Library {
    void* (*new_context)();
    void (*free_context)(void*);
    int (*init)(void*, const void* cipher, void* engine, const unsigned char* key, const unsigned char* iv, int seals);
    int (*update)(void*, unsigned char* out, int* written, const unsigned char* in, int length);
    int (*finish)(void*, unsigned char* out, int* written);
    int (*control)(void*, int what, int length, void* pointer);
    const void* cipher;
};

class ByOpenSsl : public Aead {
public:
    explicit ByOpenSsl(const Library& library) : library_(library), context_(library.new_context()) {
        if (context_ == nullptr) throw std::bad_alloc();
    }
    ~ByOpenSsl() override { library_.free_context(context_); }
    ByOpenSsl(const ByOpenSsl&) = delete;
    ByOpenSsl& operator=(const ByOpenSsl&) = delete;

    void use(const Key& key) override {
        check(library_.init(context_, library_.cipher, nullptr, raw(key.data()), nullptr, 1));
    }

    void seal(const Nonce& nonce, Pieces clear, Pieces plain, std::byte* sealed) override {
        begin(nonce, 1);
        int written = 0;
        for (const Piece piece : clear) add_clear(piece);
        for (const Piece piece : plain) {
            if (piece.empty()) continue;
            check(library_.update(context_, raw(sealed), &written, raw(piece.data()), static_cast<int>(piece.size())));
            sealed += piece.size();
        }
        unsigned char nothing[kTagBytes];
        check(library_.finish(context_, nothing, &written));
        check(library_.control(context_, kGetTag, static_cast<int>(kTagBytes), sealed));
    }

    bool open(const Nonce& nonce, Piece clear, Piece sealed, std::byte* plain) override {
        begin(nonce, 0);
        add_clear(clear);
        const Piece text = sealed.first(sealed.size() - kTagBytes);
        int written = 0;
        if (!text.empty())
            check(library_.update(context_, raw(plain), &written, raw(text.data()), static_cast<int>(text.size())));
        std::byte expected[kTagBytes];
        std::memcpy(expected, sealed.data() + text.size(), kTagBytes);
        check(library_.control(context_, kSetTag, static_cast<int>(kTagBytes), expected));
        unsigned char nothing[kTagBytes];
        return library_.finish(context_, nothing, &written) == 1;
    }

private:
    static void check(int done) {
        if (done != 1) throw std::runtime_error("OpenSSL could not do AES-256-GCM");
    }
    // The key stays, whichever way it goes: GCM uses it in one way only.
    void begin(const Nonce& nonce, int seals) {
        check(library_.init(context_, nullptr, nullptr, nullptr, raw(nonce.data()), seals));
    }
    void add_clear(Piece piece) {
        int written = 0;
        if (!piece.empty())
            check(library_.update(context_, nullptr, &written, raw(piece.data()), static_cast<int>(piece.size())));
    }

    const Library& library_;
    void* context_;
};

nb::bytes joined(Pieces pieces) {
    std::size_t length = 0;
    for (const Piece piece : pieces) length += piece.size();
    nb::bytes all =
        nb::steal<nb::bytes>(owned(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(length))).release());
    char* at = PyBytes_AS_STRING(all.ptr());
    for (const Piece piece : pieces) {
        if (!piece.empty()) std::memcpy(at, piece.data(), piece.size());
        at += piece.size();
    }
    return all;
}

nb::bytes bytes_of(Piece piece) { return joined({&piece, 1}); }

// One that is written to is as much ours.
nb::object view_of(const std::byte* bytes, std::size_t length, int flags) {
    static std::byte nothing{};  // a view of no bytes has an address, too
    char* start = reinterpret_cast<char*>(length == 0 ? &nothing : const_cast<std::byte*>(bytes));
    return owned(PyMemoryView_FromMemory(start, static_cast<Py_ssize_t>(length), flags));
}

// Its calls come with the interpreter's lock or without.
class ByCryptography : public Aead {
public:
    ByCryptography() {
        aesgcm_ = nb::module_::import_("cryptography.hazmat.primitives.ciphers.aead").attr("AESGCM");
        invalid_tag_ = nb::module_::import_("cryptography.exceptions").attr("InvalidTag");
        fills_ = nb::hasattr(aesgcm_, "encrypt_into") && nb::hasattr(aesgcm_, "decrypt_into");
    }
    ~ByCryptography() override {
        const nb::gil_scoped_acquire locked;
        aead_.reset();
        aesgcm_.reset();
        invalid_tag_.reset();
    }
    ByCryptography(const ByCryptography&) = delete;
    ByCryptography& operator=(const ByCryptography&) = delete;

    // Does it fill memory that it is given? It does from cryptography 48 on.
    bool fills() const noexcept { return fills_; }

    void use(const Key& key) override {
        const nb::gil_scoped_acquire locked;
        aead_ = aesgcm_(bytes_of(key));
    }

    void seal(const Nonce& nonce, Pieces clear, Pieces plain, std::byte* sealed) override {
        const nb::gil_scoped_acquire locked;
        const nb::object text = taken(plain);
        if (fills_) {
            const std::size_t length = nb::len(text) + kTagBytes;
            aead_.attr("encrypt_into")(bytes_of(nonce), text, taken(clear), view_of(sealed, length, PyBUF_WRITE));
            return;
        }
        const auto result = nb::cast<nb::bytes>(aead_.attr("encrypt")(bytes_of(nonce), text, taken(clear)));
        std::memcpy(sealed, result.c_str(), result.size());
    }

    bool open(const Nonce& nonce, Piece clear, Piece sealed, std::byte* plain) override {
        const nb::gil_scoped_acquire locked;
        const std::size_t length = sealed.size() - kTagBytes;
        try {
            if (fills_) {
                // It has not said that it works in place.
                const nb::object text = plain == sealed.data() ? nb::object(bytes_of(sealed)) : taken({&sealed, 1});
                aead_.attr("decrypt_into")(bytes_of(nonce), text, taken({&clear, 1}),
                                           view_of(plain, length, PyBUF_WRITE));
                return true;
            }
            const auto text =
                nb::cast<nb::bytes>(aead_.attr("decrypt")(bytes_of(nonce), bytes_of(sealed), bytes_of(clear)));
            if (length != 0) std::memcpy(plain, text.c_str(), length);
            return true;
        } catch (nb::python_error& error) {
            if (!error.matches(invalid_tag_)) throw;
            return false;
        }
    }

private:
    // As a call takes it: a single piece without a copy.
    nb::object taken(Pieces pieces) const {
        if (fills_ && pieces.size() == 1) return view_of(pieces[0].data(), pieces[0].size(), PyBUF_READ);
        return joined(pieces);
    }

    nb::object aesgcm_, invalid_tag_, aead_;
    bool fills_;
};

// It is believed once it has said what the package cryptography says, and opened what that has sealed.
bool is_right(const Library& library) {
    const Key key{std::byte{7}};
    const Nonce nonce{std::byte{1}};
    const std::byte text[]{std::byte{'a'}, std::byte{'b'}, std::byte{'c'}};
    const Piece piece = text;
    std::byte found[sizeof text + kTagBytes], wanted[sizeof text + kTagBytes], opened[sizeof text];
    ByOpenSsl own(library);
    ByCryptography other;
    own.use(key);
    other.use(key);
    own.seal(nonce, {&piece, 1}, {&piece, 1}, found);
    other.seal(nonce, {&piece, 1}, {&piece, 1}, wanted);
    if (std::memcmp(found, wanted, sizeof found) != 0) return false;
    if (!own.open(nonce, piece, found, opened) || std::memcmp(opened, text, sizeof text) != 0) return false;
    found[0] ^= std::byte{1};
    return !own.open(nonce, piece, found, opened);
}

bool open_library(Library& library) {
    OpenSsl openssl;
    if (!openssl.find("EVP_CIPHER_CTX_new", library.new_context) ||
        !openssl.find("EVP_CIPHER_CTX_free", library.free_context) ||
        !openssl.find("EVP_CipherInit_ex", library.init) || !openssl.find("EVP_CipherUpdate", library.update) ||
        !openssl.find("EVP_CipherFinal_ex", library.finish) || !openssl.find("EVP_CIPHER_CTX_ctrl", library.control))
        return false;
    // OpenSSL 3 looks an algorithm up at each use unless it was fetched.
    const void* (*fetch)(void*, const char*, const char*) = nullptr;
    const void* (*aes_256_gcm)() = nullptr;
    library.cipher = nullptr;
    if (openssl.find("EVP_CIPHER_fetch", fetch)) library.cipher = fetch(nullptr, "AES-256-GCM", nullptr);
    if (library.cipher == nullptr && openssl.find("EVP_aes_256_gcm", aes_256_gcm)) library.cipher = aes_256_gcm();
    if (library.cipher == nullptr) return false;
    try {
        return is_right(library);
    } catch (const std::runtime_error&) {  // it has the functions, and is not allowed to, or cannot, do this
        return false;
    }
}

// Null if there is none.
const Library* library() {
    static FoundOnce<Library> found;
    return found.get(open_library);
}

// Records of so many bytes are worth a call of Python's, of some microseconds: those of large messages.
constexpr std::size_t kWorthACall = link::kLargeBytes;

std::int64_t shortest_seal_ns(Aead& aead, Piece plain, std::byte* sealed) {
    aead.use(Key{});
    std::int64_t shortest = INT64_MAX;
    for (std::uint8_t i = 0; i < 5; ++i) {
        const std::int64_t begin = platform::monotonic_ns();
        aead.seal(Nonce{std::byte{i}}, {}, {&plain, 1}, sealed);
        shortest = std::min(shortest, platform::monotonic_ns() - begin);
    }
    return shortest;
}

// A distribution's OpenSSL is as old as itself, that of cryptography's wheels is new: with AVX-512, of which 3.0 makes no use,
// three times as fast. Which one it is here is tried, once.
bool is_outdone(const Library& library) {
    static std::atomic<int> known{-1};
    if (const int found = known.load(std::memory_order_relaxed); found >= 0) return found != 0;
    ByCryptography other;
    bool outdone = false;
    if (other.fills()) {
        ByOpenSsl own(library);
        const std::vector<std::byte> plain(kWorthACall);
        std::vector<std::byte> sealed(kWorthACall + kTagBytes);
        const std::int64_t by_other = shortest_seal_ns(other, plain, sealed.data());
        outdone = 3 * by_other < 2 * shortest_seal_ns(own, plain, sealed.data());
    }
    known.store(outdone ? 1 : 0, std::memory_order_relaxed);
    return outdone;
}

// Small records natively, and what is only proven, too: there the call costs what it gains. Large ones by the package
// cryptography, one at a time: its calls keep the interpreter's lock, and whoever finds it at work has a core of his own.
class BySize : public Aead {
public:
    explicit BySize(const Library& library) : native_(library) {}

    void use(const Key& key) override {
        native_.use(key);
        large_.use(key);
    }

    void seal(const Nonce& nonce, Pieces clear, Pieces plain, std::byte* sealed) override {
        const Turn turn(plain.size() == 1 ? plain[0].size() : 0);
        which(turn).seal(nonce, clear, plain, sealed);
    }

    bool open(const Nonce& nonce, Piece clear, Piece sealed, std::byte* plain) override {
        const Turn turn(plain == sealed.data() ? 0 : sealed.size());
        return which(turn).open(nonce, clear, sealed, plain);
    }

private:
    class Turn {
    public:
        explicit Turn(std::size_t nbytes) noexcept
            : taken_(nbytes >= kWorthACall && !busy_.exchange(true, std::memory_order_relaxed)) {}
        ~Turn() {
            if (taken_) busy_.store(false, std::memory_order_relaxed);
        }
        Turn(const Turn&) = delete;
        Turn& operator=(const Turn&) = delete;
        explicit operator bool() const noexcept { return taken_; }

    private:
        static inline std::atomic<bool> busy_{false};  // orders nothing: the interpreter's lock does
        bool taken_;
    };

    Aead& which(const Turn& turn) noexcept { return turn ? static_cast<Aead&>(large_) : native_; }

    ByOpenSsl native_;
    ByCryptography large_;
};

}  // namespace

std::unique_ptr<Aead> make_aead(By by) {
    const Library* const native = by == By::cryptography ? nullptr : library();
    if (native == nullptr) return std::make_unique<ByCryptography>();
    if (by == By::size || (by == By::whichever && is_outdone(*native))) return std::make_unique<BySize>(*native);
    return std::make_unique<ByOpenSsl>(*native);
}

}  // namespace ringcast::bindings
