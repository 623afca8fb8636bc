#include "sha256.hpp"

#include <dlfcn.h>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>

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

template <class Function>
bool find(void* in, const char* name, Function*& function) {
    function = reinterpret_cast<Function*>(dlsym(in, name));
    return function != nullptr;
}

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

// Through Python's extension module one finds the very library that it is linked with, whatever else is loaded.
bool open_library(Library& library) {
    nb::object path = nb::none();
    try {
        path = nb::getattr(nb::module_::import_("_hashlib"), "__file__", nb::none());
    } catch (nb::python_error& error) {
        if (!error.matches(PyExc_ImportError)) throw;
        return false;  // a Python without OpenSSL
    }
    // Without a file the module is a part of the program. The handle is kept for ever.
    void* in = path.is_none() ? dlopen(nullptr, RTLD_NOW)
                              : dlopen(nb::cast<nb::str>(path).c_str(), RTLD_NOW | RTLD_NOLOAD | RTLD_LOCAL);
    if (in == nullptr || !find(in, "EVP_MD_CTX_new", library.new_context) ||
        !find(in, "EVP_MD_CTX_free", library.free_context) || !find(in, "EVP_DigestInit_ex", library.init) ||
        !find(in, "EVP_DigestUpdate", library.update) || !find(in, "EVP_DigestFinal_ex", library.finish))
        return false;
    // OpenSSL 3 looks an algorithm up at each use unless it was fetched.
    const void* (*fetch)(void*, const char*, const char*) = nullptr;
    const void* (*sha256)() = nullptr;
    library.algorithm = nullptr;
    if (find(in, "EVP_MD_fetch", fetch)) library.algorithm = fetch(nullptr, "SHA256", nullptr);
    if (library.algorithm == nullptr && find(in, "EVP_sha256", sha256)) library.algorithm = sha256();
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

// Null if there is none. Importing may let other threads run, so there is no lock here: the first to have it wins.
const Library* library() {
    static std::atomic<const Library*> known{nullptr};
    static const Library none{};
    const Library* found = known.load(std::memory_order_acquire);  // acquire [libcrypto]
    if (found == nullptr) {
        auto opened = std::make_unique<Library>();
        const Library* mine = open_library(*opened) ? opened.get() : &none;
        // acq_rel [libcrypto]: acquire, for another's may be there.
        if (known.compare_exchange_strong(found, mine, std::memory_order_acq_rel, std::memory_order_acquire)) {
            found = mine;
            if (mine != &none) static_cast<void>(opened.release());  // as long as the process
        }
    }
    return found == &none ? nullptr : found;
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
