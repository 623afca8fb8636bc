// What the context managers of acquire_write, loan, loan_array and acquire_read have in common: each owns its open chunk.
//
// From entering to leaving, the end's turn is the chunk's, and this object has the ticket. It gives the turn and the room
// back when it goes away, however and in whichever thread that happens; nothing that can fail comes between taking the
// turn and that. Whoever drops the chunk otherwise (Endpoint) makes the ticket worthless.
#pragma once

#include <nanobind/nanobind.h>
#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

#include "methods.hpp"

namespace ringcast::bindings {

class Ticket {
public:
    bool any() const noexcept { return ticket_.load(std::memory_order_relaxed) != 0; }
    void set(std::uint64_t ticket) noexcept { ticket_.store(ticket, std::memory_order_relaxed); }
    enum class Redeemed { turn, dropped, none };
    // Once. `turn`: the calling thread has the end's turn.
    Redeemed redeem(Endpoint& endpoint) noexcept {
        const std::uint64_t ticket = ticket_.exchange(0, std::memory_order_relaxed);
        if (ticket == 0) return Redeemed::none;
        return endpoint.redeem_turn(ticket) ? Redeemed::turn : Redeemed::dropped;
    }

private:
    std::atomic<std::uint64_t> ticket_{0};
};

class OpenChunk {
public:
    explicit OpenChunk(nb::object of) : end_(std::move(of)) { end_of(end_.ptr()); }
    ~OpenChunk() { drop(); }
    OpenChunk(const OpenChunk&) = delete;
    OpenChunk& operator=(const OpenChunk&) = delete;

    // Gives everything back, if it is open.
    void drop() noexcept {
        if (!end_.is_valid()) return;
        Endpoint& e = end().endpoint();
        if (e.in_forked_child() || ticket_.redeem(e) != Ticket::Redeemed::turn) return;
        e.drop_chunk();
        e.give_turn_back();
    }
    End& end() const { return end_of(end_.ptr()); }
    bool is_alive() const noexcept { return end_.is_valid(); }
    nb::object end_object() const { return end_; }

protected:
    void check_not_open() const {
        if (ticket_.any()) raise("BusyError", end().context() + ": this chunk is open already; leave it first");
    }
    // Takes the turn back, to leave the chunk. False: it has been dropped, or it is a parent's that an exception leaves.
    bool leave(const char* what, bool failed) {
        if (failed && end().endpoint().in_forked_child()) return false;
        end().check_not_forked();
        switch (ticket_.redeem(end().endpoint())) {
            case Ticket::Redeemed::turn:
                return true;
            case Ticket::Redeemed::dropped:
                return false;
            case Ticket::Redeemed::none:
                break;
        }
        raise("BusyError", end().context() + ": " + what + " can be left only once, after it was entered");
    }

    nb::object end_;
    Ticket ticket_;
};

// The slots and methods of such types.
template <class Type>
int traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    return nb::inst_ready(self) ? nb::inst_ptr<Type>(self)->traverse(visit, arg) : 0;
}
template <class Type>
int clear(PyObject* self) {
    if (nb::inst_ready(self)) nb::inst_ptr<Type>(self)->clear();
    return 0;
}

template <class Type>
Type& chunk_of(PyObject* self) {
    return *nb::inst_ptr<Type>(self);
}
// The context of errors of the core, as `guarded` gives it to those of an end's calls.
template <class Type, class Body>
PyObject* guarded_chunk(PyObject* self, Body&& body) noexcept {
    try {
        if (!nb::inst_ready(self) || !chunk_of<Type>(self).is_alive())
            raise("BusyError", "this chunk is not usable: it was not made by a queue, or is being collected");
    } catch (nb::python_error& error) {
        error.restore();
        return nullptr;
    }
    return guarded(chunk_of<Type>(self).end_object().ptr(), std::forward<Body>(body));
}

template <class Type>
PyObject* enter(PyObject* self, PyObject*) {
    return guarded_chunk<Type>(self, [&] { return chunk_of<Type>(self).enter().release().ptr(); });
}
inline bool has_failed(PyObject* const* arguments, Py_ssize_t count) { return count > 0 && arguments[0] != Py_None; }

}  // namespace ringcast::bindings
