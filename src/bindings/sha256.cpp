#include "sha256.hpp"

#include <cstring>
#include <stdexcept>

#include "openssl.hpp"
#include "py_errors.hpp"

namespace ringcast::bindings {

namespace nb = nanobind;

namespace {

// What is used of libcrypto: the same in OpenSSL from 1.1 on, LibreSSL and their like.
struct Library {
    void* (*new_context)();
    void (*free_context)(void*);
    int (*init)(void*, const void* algorithm, void* engine);
    int (*update)(void*, const void* bytes, std::size_t length);
    int (*finish)(void*, unsigned char* digest, unsigned int* length);
    const void* algorithm;
};

void* new_context(const Library& library) {
    void* context = library.new_context();
    if (context != nullptr && library.init(context, library.algorithm, nullptr) == 1) return context;
    library.free_context(context);
    return nullptr;
}

bool hash(const Library& library, void* context, std::span<const std::byte> bytes, pool::Digest& digest) {
    return library.init(context, nullptr, nullptr) == 1 && library.update(context, bytes.data(), bytes.size()) == 1 &&
           library.finish(context, reinterpret_cast<unsigned char*>(&digest), nullptr) == 1;
}

pool::Digest hash_by(const nb::object& sha256, std::span<const std::byte> bytes) {
    const nb::object view = owned(PyMemoryView_FromMemory(reinterpret_cast<char*>(const_cast<std::byte*>(bytes.data())),
                                                          static_cast<Py_ssize_t>(bytes.size()), PyBUF_READ));
    const nb::object hashed = sha256(view).attr("digest")();
    pool::Digest digest;
    if (!PyBytes_Check(hashed.ptr()) || PyBytes_GET_SIZE(hashed.ptr()) != static_cast<Py_ssize_t>(sizeof digest))
        throw std::runtime_error("hashlib.sha256 gave no digest of 32 bytes");
    std::memcpy(&digest, PyBytes_AS_STRING(hashed.ptr()), sizeof digest);
    return digest;
}

nb::object hashlib_sha256() { return nb::module_::import_("hashlib").attr("sha256"); }

bool open_library(Library& library) {
    OpenSsl openssl;
    if (!openssl.find("EVP_MD_CTX_new", library.new_context) ||
        !openssl.find("EVP_MD_CTX_free", library.free_context) || !openssl.find("EVP_DigestInit_ex", library.init) ||
        !openssl.find("EVP_DigestUpdate", library.update) || !openssl.find("EVP_DigestFinal_ex", library.finish))
        return false;
    // OpenSSL 3 looks an algorithm up at each use unless it was fetched.
    const void* (*fetch)(void*, const char*, const char*) = nullptr;
    const void* (*sha256)() = nullptr;
    library.algorithm = nullptr;
    if (openssl.find("EVP_MD_fetch", fetch)) library.algorithm = fetch(nullptr, "SHA256", nullptr);
    if (library.algorithm == nullptr && openssl.find("EVP_sha256", sha256)) library.algorithm = sha256();
    if (library.algorithm == nullptr) return false;
    // It is believed once it has said what hashlib says.
    void* context = new_context(library);
    if (context == nullptr) return false;
    const std::byte probe[3] = {std::byte{'a'}, std::byte{'b'}, std::byte{'c'}};
    pool::Digest digest;
    const bool hashed = hash(library, context, probe, digest);
    library.free_context(context);
    return hashed && digest == hash_by(hashlib_sha256(), probe);
}

// Null if there is none.
const Library* library() {
    static FoundOnce<Library> found;
    return found.get(open_library);
}

}  // namespace

Sha256::Sha256(bool by_hashlib) {
    if (const Library* from = by_hashlib ? nullptr : library()) context_ = new_context(*from);
    if (context_ == nullptr) by_python_ = hashlib_sha256();
}

Sha256::~Sha256() {
    if (context_ != nullptr) library()->free_context(context_);
}

pool::Digest Sha256::operator()(std::span<const std::byte> bytes) {
    if (context_ == nullptr) return hash_by(by_python_, bytes);
    pool::Digest digest;
    if (!hash(*library(), context_, bytes, digest)) throw std::runtime_error("OpenSSL could not hash");
    return digest;
}

}  // namespace ringcast::bindings
