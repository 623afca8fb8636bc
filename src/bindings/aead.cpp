#include "aead.hpp"

#include <nanobind/nanobind.h>

#include <cstring>
#include <stdexcept>
#include <utility>

#include "openssl.hpp"
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

    void seal(const Nonce& nonce, Pieces clear, Pieces plain, std::byte* sealed, std::byte* tag) override {
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
        check(library_.control(context_, kGetTag, static_cast<int>(kTagBytes), tag));
    }

    bool open(const Nonce& nonce, Piece clear, std::span<std::byte> sealed, const std::byte* tag) override {
        begin(nonce, 0);
        add_clear(clear);
        int written = 0;
        if (!sealed.empty())
            check(library_.update(context_, raw(sealed.data()), &written, raw(sealed.data()),
                                  static_cast<int>(sealed.size())));
        std::byte expected[kTagBytes];
        std::memcpy(expected, tag, kTagBytes);
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

// Its calls come with the interpreter's lock or without.
class ByCryptography : public Aead {
public:
    ByCryptography() {
        aesgcm_ = nb::module_::import_("cryptography.hazmat.primitives.ciphers.aead").attr("AESGCM");
        invalid_tag_ = nb::module_::import_("cryptography.exceptions").attr("InvalidTag");
    }
    ~ByCryptography() override {
        const nb::gil_scoped_acquire locked;
        aead_.reset();
        aesgcm_.reset();
        invalid_tag_.reset();
    }
    ByCryptography(const ByCryptography&) = delete;
    ByCryptography& operator=(const ByCryptography&) = delete;

    void use(const Key& key) override {
        const nb::gil_scoped_acquire locked;
        aead_ = aesgcm_(bytes_of(key));
    }

    void seal(const Nonce& nonce, Pieces clear, Pieces plain, std::byte* sealed, std::byte* tag) override {
        const nb::gil_scoped_acquire locked;
        const auto result = nb::cast<nb::bytes>(aead_.attr("encrypt")(bytes_of(nonce), joined(plain), joined(clear)));
        const std::size_t length = result.size() - kTagBytes;
        if (length != 0) std::memcpy(sealed, result.c_str(), length);
        std::memcpy(tag, result.c_str() + length, kTagBytes);
    }

    bool open(const Nonce& nonce, Piece clear, std::span<std::byte> sealed, const std::byte* tag) override {
        const nb::gil_scoped_acquire locked;
        const Piece pieces[]{sealed, {tag, kTagBytes}};
        try {
            const auto plain =
                nb::cast<nb::bytes>(aead_.attr("decrypt")(bytes_of(nonce), joined(pieces), bytes_of(clear)));
            if (!sealed.empty()) std::memcpy(sealed.data(), plain.c_str(), sealed.size());
            return true;
        } catch (nb::python_error& error) {
            if (!error.matches(invalid_tag_)) throw;
            return false;
        }
    }

private:
    nb::object aesgcm_, invalid_tag_, aead_;
};

// It is believed once it has said what the package cryptography says, and opened what that has sealed.
bool is_right(const Library& library) {
    const Key key{std::byte{7}};
    const Nonce nonce{std::byte{1}};
    const std::byte text[]{std::byte{'a'}, std::byte{'b'}, std::byte{'c'}};
    const Piece piece = text;
    std::byte found[sizeof text + kTagBytes], wanted[sizeof text + kTagBytes];
    ByOpenSsl own(library);
    ByCryptography other;
    own.use(key);
    other.use(key);
    own.seal(nonce, {&piece, 1}, {&piece, 1}, found, found + sizeof text);
    other.seal(nonce, {&piece, 1}, {&piece, 1}, wanted, wanted + sizeof text);
    if (std::memcmp(found, wanted, sizeof found) != 0) return false;
    if (!own.open(nonce, piece, {found, sizeof text}, found + sizeof text)) return false;
    wanted[0] ^= std::byte{1};
    return std::memcmp(found, text, sizeof text) == 0 &&
           !own.open(nonce, piece, {wanted, sizeof text}, wanted + sizeof text);
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

}  // namespace

std::unique_ptr<Aead> make_aead(bool by_cryptography) {
    if (const Library* from = by_cryptography ? nullptr : library()) return std::make_unique<ByOpenSsl>(*from);
    return std::make_unique<ByCryptography>();
}

}  // namespace ringcast::bindings
