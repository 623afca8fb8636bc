// A request to a pool's server, and every way in which it can fail to be answered.
#include <cstdio>

#include "platform/clock.hpp"
#include "platform/process.hpp"
#include "pool_client.hpp"
#include "py_errors.hpp"
#include "unlocked.hpp"

namespace ringcast::bindings {

namespace {

std::string seconds(std::int64_t ns) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g s", static_cast<double>(ns) / 1e9);
    return text;
}

std::int64_t later(std::int64_t from, std::int64_t by) { return by >= kForever - from ? kForever : from + by; }

}  // namespace

Asking::Asking(PoolClient& client, const char* what, std::uint32_t count, std::int64_t timeout_ns)
    : client_(client),
      core_(client.usable()),
      what_(what),
      count_(count),
      timeout_ns_(timeout_ns),
      started_ns_(platform::monotonic_ns()),
      call_(core_) {
    while (!call_.take_slot()) {
        if (platform::monotonic_ns() >= later(started_ns_, timeout_ns_))
            raise_timeout("a free slot of this client's mailbox, all of which have requests that were not answered");
        {
            const Unlocked unlocked;
            platform::nap();
        }
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        client_.usable();
    }
}

void Asking::raise_timeout(const char* waited_for) {
    raise("PoolTimeoutError", client_.context() + ": " + what_ + " of " + std::to_string(count_) +
                                  (count_ == 1 ? " key" : " keys") + ": waited " +
                                  seconds(platform::monotonic_ns() - started_ns_) + " for " + waited_for + " by " +
                                  core_.memory().server() +
                                  "; nothing of it has been done. Try again, or give the client a longer timeout");
}

void Asking::ask(pool::Ask kind) {
    using Progress = pool::Call::Progress;
    const std::int64_t deadline = later(started_ns_, timeout_ns_);
    std::int64_t dead_since = 0;
    call_.begin(kind, count_);
    if (call_.briefly()) {
        // answered while the interpreter's lock was held
    } else {
        for (;;) {
            Progress progress;
            {
                const Unlocked unlocked;
                const std::int64_t until =
                    dead_since == 0 ? deadline : std::min(deadline, later(dead_since, client_.regain_ns));
                progress = call_.slice(until);
            }
            if (progress == Progress::answered) break;
            if (PyErr_CheckSignals() != 0) throw nb::python_error();
            const std::int64_t now = platform::monotonic_ns();
            const char* why = nullptr;
            if (progress == Progress::closed) {
                why = "PoolClosedError";
            } else if (progress == Progress::server_dead) {
                if (dead_since == 0) dead_since = now;
                if (now >= later(dead_since, client_.regain_ns)) why = "ServerDiedError";
            } else {
                dead_since = 0;
            }
            if (why == nullptr && now < deadline) continue;
            if (!call_.withdraw()) break;  // answered at the last moment
            if (why == nullptr) raise_timeout("an answer");
            const std::string what = client_.context() + ": " + what_ + " of " + std::to_string(count_) +
                                     (count_ == 1 ? " key" : " keys") + ": ";
            if (progress == Progress::closed)
                raise(why, what +
                               "its server has closed the pool; what was retrieved stays valid. Call reconnect() once "
                               "there is another one");
            raise(why,
                  what + core_.memory().server() + " died, and no other one took the pool over within " +
                      seconds(now - dead_since) +
                      "; what is stored can still be retrieved. Start a server of the same name and sizes, or raise "
                      "`regain`");
        }
    }
    if (call_.refused()) {
        call_.take();
        raise("PoolError", client_.context() + ": " + what_ +
                               ": the server refused the request as one that makes no "
                               "sense, so this client's seat was written to by others");
    }
}

pool::Client& PoolClient::usable() const {
    if (core == nullptr) raise("PoolClosedError", "this pool client is not connected: use PoolClient.connect");
    if (core->in_forked_child())
        raise("ForkedError", context() + ": this client was connected by a parent process; connect in this one");
    if (core->closed()) raise("PoolClosedError", context() + ": this client was closed");
    return *core;
}

std::string PoolClient::context() const {
    if (core == nullptr) return "pool client";
    return core->memory().label() + ", worker '" + worker_id + "', pid " + std::to_string(platform::process_id());
}

std::uint32_t PoolClient::parts_of(const Keys& keys) const {
    const std::uint32_t parts = keys.space().shards;
    if (parts == 1 && shards <= 1) return 1;
    const auto refuse = [&](const std::string& what) {
        raise("LayoutError",
              context() + ": these keys are of a model in " + std::to_string(parts) + " shards, and " + what);
    };
    if (shards != 0 && shards != parts)
        refuse("this client's layout is of " + std::to_string(shards) + ": say the same in both");
    if (parts > pool::kMaxParts) refuse("a chunk has at most " + std::to_string(pool::kMaxParts) + " parts");
    if (chunk_bytes % parts != 0)
        refuse("this client's chunks have " + std::to_string(chunk_bytes) +
               " bytes, which are not as many equal parts");
    if (pool::block_bytes(chunk_bytes, parts) > UINT32_MAX)
        refuse("a chunk of " + std::to_string(chunk_bytes) + " bytes has no room for their checksums");
    return parts;
}

void check_chunk(const PoolClient& client, const PoolLease& lease, std::uint32_t entry) {
    const pool::Client& core = *lease.core;
    const std::uint64_t wanted = pool::block_bytes(client.chunk_bytes, lease.part.of);
    const std::uint64_t capacity = core.memory().header().capacity;
    const std::uint64_t block = core.block(entry);
    if (core.length(entry) != wanted)
        raise("PoolError", client.context() + ": a chunk of these keys has " +
                               std::to_string(pool::payload_bytes(core.length(entry), lease.part.of)) +
                               " bytes, and this client's layout says " + std::to_string(client.chunk_bytes) +
                               ": whoever stored it has another layout under the same fingerprint. Put what differs "
                               "into the Namespace");
    if (block > capacity || wanted > capacity - block)
        raise("PoolError", client.context() + ": the pool is damaged: a chunk begins at byte " + std::to_string(block) +
                               " of " + std::to_string(capacity) + "; end its server and start it anew");
}

void report_damage(PoolClient& client, const pool::Look& look) {
    try {
        Asking asking(client, "reporting a damaged chunk", 1, client.timeout_ns);
        asking.item(0).entry.store(look.entry, std::memory_order_relaxed);
        asking.item(0).generation.store(pool::generation_of(look.word), std::memory_order_relaxed);
        asking.ask(pool::Ask::suspect);
        asking.take();
    } catch (nb::python_error& error) {
        if (interrupts(error)) throw;  // else it is a miss here all the same, and found again by the next one
    }
}

}  // namespace ringcast::bindings
