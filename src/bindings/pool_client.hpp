// A pool's client as Python has it, and the leases and slots that it gives.
//
//     PoolClient       asks; `reconnect` gives it another core
//     RetrieveLease    chunks that are pinned to be read
//     StoreLease       chunks that are reserved to be filled
//     Slot             one chunk of a lease
//
// What is pinned stays so until its lease has been given back and its last view is gone; of a run of chunks, as much as
// views still show. Views hold no Python object.
#pragma once

#include <nanobind/nanobind.h>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pool/call.hpp"
#include "pool/client.hpp"
#include "pool/holding.hpp"
#include "pool_keys.hpp"

namespace ringcast::bindings {

namespace nb = nanobind;

struct PoolClient {
    std::shared_ptr<pool::Client> core;  // null until connected
    std::string worker_id;
    std::uint32_t chunk_bytes = 0;  // of all parts together
    std::uint32_t shards = 0;       // of its layout; 0: that says nothing of them
    std::int64_t timeout_ns = 0;
    std::int64_t regain_ns = 0;
    bool verify = true;

    // The core, if calls may be made; else ForkedError or PoolClosedError.
    pool::Client& usable() const;
    // The same of the one that a call began with: another thread may reconnect meanwhile.
    void check_usable(const pool::Client& one) const;
    std::string context() const;  // "pool 'kv0', worker 'w0', pid 7"
    // How many parts the chunks of these keys have; LayoutError where this client's cannot have so many.
    std::uint32_t parts_of(const Keys& keys) const;
};

// One request and its answer, from filling in the slot to taking what was answered. Raises PoolTimeoutError,
// ServerDiedError, PoolClosedError; then nothing of it stays. A call makes all of its requests to the core it began with, whose
// seat is kept as long.
class Asking {
public:
    // Takes a slot of the mailbox, within the time, for so many items; `keys` of them are what the caller asks for.
    Asking(PoolClient& client, std::shared_ptr<pool::Client> core, const char* what, std::uint32_t count,
           std::int64_t timeout_ns, std::uint32_t keys);
    Asking(PoolClient& client, std::shared_ptr<pool::Client> core, const char* what, std::uint32_t count,
           std::int64_t timeout_ns)
        : Asking(client, std::move(core), what, count, timeout_ns, count) {}
    pool::NativeMailSlot& slot() const noexcept { return call_.slot(); }
    pool::MailItem& item(std::uint32_t i) const noexcept { return slot().items[i]; }
    // What the server never says, in a seat that others have written to, is lost.
    pool::Status status(std::uint32_t i) const noexcept {
        const auto said = static_cast<pool::Status>(item(i).status.load(std::memory_order_relaxed));
        return said > pool::Status::none && said < pool::Status::damaged ? said : pool::Status::lost;
    }
    // Until it is answered.
    void ask(pool::Ask kind);
    pool::Refusal refusal() const noexcept {
        return static_cast<pool::Refusal>(slot().refused.load(std::memory_order_relaxed));
    }
    // What is to be held of the answer is pinned.
    void take() noexcept { call_.take(); }

private:
    using Progress = pool::Call::Progress;
    // Is there nothing to wait for any more? Not while another server may come.
    bool is_lost(Progress progress, std::int64_t now) noexcept;
    [[noreturn]] void raise_lost(Progress progress, std::int64_t now);
    [[noreturn]] void raise_timeout(const char* waited_for);
    std::string said() const;  // "pool 'kv0', worker 'w0', pid 7: prepare_store of 2 keys: "

    PoolClient& client_;
    const std::shared_ptr<pool::Client> core_;
    const char* what_;
    std::uint32_t count_;
    std::uint32_t keys_;
    std::int64_t timeout_ns_;
    std::int64_t started_ns_;
    std::int64_t dead_since_ = 0;
    pool::Call call_;
};

// What both kinds of lease are.
struct PoolLease {
    // A lease of chunks of one part has that; of more it has none, until its token is joined.
    PoolLease(nb::handle of, nb::object its_keys, std::uint32_t parts, std::uint32_t number = pool::kNoPart)
        : core(nb::cast<const PoolClient&>(of).core),
          keys(std::move(its_keys)),
          client(nb::borrow(of)),
          part{number == pool::kNoPart && parts == 1 ? 0 : number, parts},
          chunk_bytes(nb::cast<const PoolClient&>(of).chunk_bytes / parts),
          held(std::make_shared<pool::Holding>(core)) {}
    ~PoolLease() { held->end(); }
    PoolLease(const PoolLease&) = delete;
    PoolLease& operator=(const PoolLease&) = delete;

    // It is given back: what views still show stays pinned until they are gone.
    void end() noexcept {
        ended = true;
        held->end();
    }
    int traverse(visitproc visit, void* arg) const {
        Py_VISIT(keys.ptr());
        Py_VISIT(client.ptr());
        return 0;
    }

    std::shared_ptr<pool::Client> core;
    nb::object keys;
    nb::object client;
    pool::Part part;
    std::uint32_t chunk_bytes;      // of a part
    std::vector<pool::Look> looks;  // by key; of kNoEntry: not held
    std::vector<pool::Status> statuses;
    std::shared_ptr<pool::Holding> held;
    bool ended = false;
};

struct RetrieveLease : PoolLease {
    using PoolLease::PoolLease;
    std::uint32_t hits = 0;
    bool leading = true;  // what comes behind the first miss is none, and `statuses` has that one's alone
    bool verify = true;   // not done yet
    bool is_use = true;   // of the chunks, to the policy
};

// The gathers that fill a store's chunks, by key. A commit waits until none is running, and takes their checksums.
struct Gathers {
    enum class State : std::uint8_t { none, running, failed, done };
    std::mutex mutex;
    std::condition_variable ended;
    std::uint32_t running = 0;
    std::vector<State> states;
    std::vector<std::uint32_t> checksums;
    std::vector<bool> shown;  // what has an array may be written to by others, so its checksum is made at the commit
};

struct StoreLease : PoolLease {
    using PoolLease::PoolLease;
    int traverse(visitproc visit, void* arg) const {
        for (const nb::object& reference : arrays) Py_VISIT(reference.ptr());
        return PoolLease::traverse(visit, arg);
    }

    // Are its chunks filled by others, who join it?
    bool exports() const noexcept { return exported || part.number == pool::kNoPart; }

    void make_room(std::size_t n) {
        looks.assign(n, pool::Look{pool::kNoEntry, 0});
        statuses.assign(n, pool::Status::none);
        gathers.states.assign(n, Gathers::State::none);
        gathers.checksums.assign(n, 0);
        gathers.shown.assign(n, false);
    }

    Gathers gathers;
    bool joined = false;  // by a token: one part is this lease's
    bool exported = false;
    bool aborted = false;
    bool committing = false;  // nothing more is filled, unless that comes to nothing
    bool committed = false;
    bool is_filled() const noexcept { return committing || committed || aborted; }
    std::vector<nb::object> arrays;  // weak references to what was handed out to be written
};

struct Slot {
    int traverse(visitproc visit, void* arg) const {
        Py_VISIT(lease.ptr());
        return 0;
    }

    nb::object lease;
    PoolLease* of;
    std::uint32_t index;
    bool writable;
};

// For types whose objects may be part of a cycle. None of them needs to be cleared: whatever leads from one of them back to
// itself leads through the attributes of a client or a namespace, or a container, which are.
template <class Type>
int traverse_pool_object(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    return nb::inst_ready(self) ? nb::inst_ptr<Type>(self)->traverse(visit, arg) : 0;
}
template <class Type>
struct Collected {
    PyType_Slot slots[2] = {{Py_tp_traverse, reinterpret_cast<void*>(&traverse_pool_object<Type>)}, {0, nullptr}};
};

// Raises PoolError where a lease has no part of its own to show.
void check_has_part(const PoolLease& lease);
// Raises PoolError where a store's chunks are filled by others.
void check_fills(const StoreLease& lease);
// The parts that are missing, of one chunk or of any, as a tuple.
nb::tuple missing_of(const StoreLease& lease, std::optional<std::uint32_t> key);
template <class Lease>
nb::object export_lease(nb::handle self);
// Why and by whom a chunk that is held was given up while it was being stored: "worker 'w1', pid 7, has died".
std::string why_given_up(const pool::Client& core, const pool::Look& look);
// Waits until all parts are there, or some chunk has been given up. Raises as a request does.
void await_parts(PoolClient& client, const StoreLease& lease);
nb::object join(nb::handle self, nb::handle keys, nb::handle items, bool stores, bool leading, std::uint32_t part);

nb::list status_list(const std::vector<pool::Status>& statuses);
// Raises PoolError where a pinned chunk is not of the layout's size, or not within the pool.
void check_chunk(const PoolClient& client, const PoolLease& lease, std::uint32_t entry);

// What of a request says whose its keys are.
void describe_request(Asking& asking, const Keys& keys, const pool::Digest* parent, std::uint64_t chunk_bytes);
nb::object prepare_retrieve(nb::handle self, nb::handle keys, nb::handle wait, nb::handle leading);
// How many leading keys are in memory, once what tiers have of them is there; it waits so many seconds at most.
nb::object prefetch(nb::handle self, nb::handle keys, nb::handle wait);
void commit_retrieve(nb::handle self, nb::handle lease);
nb::object prepare_store(nb::handle self, nb::handle keys, nb::handle parent);
nb::object commit_store(nb::handle self, nb::handle lease);
void abort_store(nb::handle self, nb::handle lease);

void add_retrieve_types(nb::module_& module);
void add_store_types(nb::module_& module);
void add_slot_type(nb::module_& module);
void add_copy_types(nb::module_& module);
// Raises PoolError where a gather was given up, so that a chunk holds nothing.
void await_gathers(const PoolClient& client, StoreLease& lease);
nb::object make_slot(nb::object lease, PoolLease& of, std::uint32_t index, bool writable);
// A chunk's bytes are not what was stored: tells the server, if it can be told.
void report_damage(PoolClient& client, const std::shared_ptr<pool::Client>& core, const pool::Look& look);

}  // namespace ringcast::bindings
