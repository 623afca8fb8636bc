// AES-256-GCM by the OpenSSL that Python uses, without the interpreter's lock: a record of a link costs a microsecond of it.
// Where that library cannot be reached, by the package cryptography, which needs the lock.
#pragma once

#include <memory>

#include "link/cipher.hpp"

namespace ringcast::bindings {

// With the interpreter's lock.
std::unique_ptr<link::Aead> make_aead(bool by_cryptography = false);

}  // namespace ringcast::bindings
