// The OpenSSL that Python itself uses, called without Python in between.
#pragma once

#include <dlfcn.h>

#include <atomic>
#include <memory>

namespace ringcast::bindings {

// Through Python's extension module one finds the very library that it is linked with, whatever else is loaded.
class OpenSsl {
public:
    OpenSsl();
    // What was tried in vain leaves no error behind that this thread's next caller would take for his own.
    ~OpenSsl();
    OpenSsl(const OpenSsl&) = delete;
    OpenSsl& operator=(const OpenSsl&) = delete;

    // False if there is no such function, or no library.
    template <class Function>
    bool find(const char* name, Function*& function) {
        function = reinterpret_cast<Function*>(address_of(name));
        return function != nullptr;
    }

private:
    void* address_of(const char* name);

    void* library_ = nullptr;  // kept for ever
    void* base_ = nullptr;     // where it lies, once something of it was found
};

// A table of such functions, looked for at its first use. Importing may let other threads run, so there is no lock here: the
// first to have it wins.
template <class Table>
class FoundOnce {
public:
    // `open(table)` fills a table; false if something is missing. Null then, and from then on.
    template <class Open>
    const Table* get(Open&& open) {
        const Table* found = known_.load(std::memory_order_acquire);  // acquire [libcrypto]
        if (found == nullptr) {
            auto opened = std::make_unique<Table>();
            const Table* mine = open(*opened) ? opened.get() : &none_;
            // acq_rel [libcrypto]: acquire, for another's may be there.
            if (known_.compare_exchange_strong(found, mine, std::memory_order_acq_rel, std::memory_order_acquire)) {
                found = mine;
                if (mine != &none_) static_cast<void>(opened.release());  // as long as the process
            }
        }
        return found == &none_ ? nullptr : found;
    }

private:
    Table none_{};
    std::atomic<const Table*> known_{nullptr};
};

}  // namespace ringcast::bindings
