// SHA-256 by the OpenSSL that Python's hashlib uses, called without Python in between: of a kibibyte, hashlib's own objects
// and calls would take as long as the hash. Where that library cannot be reached, by hashlib.
#pragma once

#include <nanobind/nanobind.h>
#include <cstddef>
#include <span>

#include "pool/digest.hpp"

namespace ringcast::bindings {

// One for each thread that hashes; made and dropped with the interpreter's lock.
class Sha256 {
public:
    explicit Sha256(bool by_hashlib = false);
    ~Sha256();
    Sha256(const Sha256&) = delete;
    Sha256& operator=(const Sha256&) = delete;

    // Does a hash need no interpreter's lock?
    bool is_free() const noexcept { return context_ != nullptr; }
    pool::Digest operator()(std::span<const std::byte> bytes);

private:
    void* context_ = nullptr;     // OpenSSL's
    nanobind::object by_python_;  // hashlib.sha256, without it
};

}  // namespace ringcast::bindings
