// AES-256-GCM by the OpenSSL that Python uses, without the interpreter's lock: a record of a link costs a microsecond of it.
// Where that library cannot be reached, by the package cryptography, which needs the lock; large records by that one, too, where
// it is faster.
#pragma once

#include <memory>

#include "link/cipher.hpp"

namespace ringcast::bindings {

enum class By { whichever, openssl, cryptography, size };

// With the interpreter's lock. All do the same; whoever asks for another one than `whichever` tries that.
std::unique_ptr<link::Aead> make_aead(By by = By::whichever);

}  // namespace ringcast::bindings
