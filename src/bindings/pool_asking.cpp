// A request to a pool's server, and every way in which it can fail to be answered.
#include <cstdio>

#include "platform/clock.hpp"
#include "platform/process.hpp"
#include "pool_client.hpp"
#include "py_errors.hpp"
#include "unlocked.hpp"
#include "wanted.hpp"

namespace ringcast::bindings {

namespace {

std::string seconds(std::int64_t ns) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g s", static_cast<double>(ns) / 1e9);
    return text;
}

std::int64_t later(std::int64_t from, std::int64_t by) { return by >= kForever - from ? kForever : from + by; }

}  // namespace

Asking::Asking(PoolClient& client, std::shared_ptr<pool::Client> core, const char* what, std::uint32_t count,
               std::int64_t timeout_ns, std::uint32_t keys)
    : client_(client),
      core_(std::move(core)),
      what_(what),
      count_(count),
      keys_(keys),
      timeout_ns_(timeout_ns),
      started_ns_(platform::monotonic_ns()),
      call_(*core_) {
    client_.check_usable(*core_);
    while (!call_.take_slot()) {
        // What was withdrawn is undone by a server, and only by a living one.
        const Progress progress = call_.outlook();
        const std::int64_t now = platform::monotonic_ns();
        if (is_lost(progress, now)) raise_lost(progress, now);
        if (now >= later(started_ns_, timeout_ns_))
            raise_timeout("a free slot of this client's mailbox, all of which have requests that were not answered");
        {
            const Unlocked unlocked;
            platform::nap();
        }
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        client_.check_usable(*core_);
    }
}

std::string Asking::said() const {
    std::string text = client_.context() + ": " + what_;
    if (keys_ != 0) text += " of " + std::to_string(keys_) + (keys_ == 1 ? " key" : " keys");
    return text + ": ";
}

bool Asking::is_lost(Progress progress, std::int64_t now) noexcept {
    if (progress == Progress::closed) return true;
    if (progress != Progress::server_dead) {
        dead_since_ = 0;
        return false;
    }
    if (dead_since_ == 0) dead_since_ = now;
    return now >= later(dead_since_, client_.regain_ns);
}

void Asking::raise_lost(Progress progress, std::int64_t now) {
    if (progress == Progress::closed)
        raise("PoolClosedError", said() +
                                     "its server has closed the pool; what was retrieved stays valid. Call reconnect() "
                                     "once there is another one");
    raise("ServerDiedError", said() + core_->memory().server() + " died, and no other one took the pool over within " +
                                 seconds(now - dead_since_) +
                                 "; what is stored can still be retrieved. Start a server of the same name and sizes, "
                                 "or raise `regain`");
}

void Asking::raise_timeout(const char* waited_for) {
    raise("PoolTimeoutError", said() + "waited " + seconds(platform::monotonic_ns() - started_ns_) + " for " +
                                  waited_for + " by " + core_->memory().server() +
                                  "; nothing of it has been done. Try again, or give the client a longer timeout");
}

void Asking::ask(pool::Ask kind) {
    const std::int64_t deadline = later(started_ns_, timeout_ns_);
    call_.begin(kind, count_);
    if (!call_.briefly()) {  // else it was answered while the interpreter's lock was held
        Interest interest;
        for (;;) {
            Progress progress;
            {
                const Unlocked unlocked;
                const std::int64_t until =
                    dead_since_ == 0 ? deadline : std::min(deadline, later(dead_since_, client_.regain_ns));
                progress = call_.slice(until);
            }
            if (progress == Progress::answered) break;
            if (PyErr_CheckSignals() != 0) throw nb::python_error();
            const std::int64_t now = platform::monotonic_ns();
            const bool lost = is_lost(progress, now);
            if (!lost && now < deadline && interest.look() != Wanted::no_more) continue;
            if (!call_.withdraw()) break;  // answered at the last moment
            if (lost) raise_lost(progress, now);
            raise_timeout("an answer");
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
    check_usable(*core);
    return *core;
}

void PoolClient::check_usable(const pool::Client& one) const {
    if (one.in_forked_child())
        raise("ForkedError", context() + ": this client was connected by a parent process; connect in this one");
    if (one.closed()) raise("PoolClosedError", context() + ": this client was closed");
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

void report_damage(PoolClient& client, const std::shared_ptr<pool::Client>& core, const pool::Look& look) {
    try {
        Asking asking(client, core, "reporting a damaged chunk", 1, client.timeout_ns);
        asking.item(0).entry.store(look.entry, std::memory_order_relaxed);
        asking.item(0).generation.store(pool::generation_of(look.word), std::memory_order_relaxed);
        asking.ask(pool::Ask::suspect);
        asking.take();
    } catch (nb::python_error& error) {
        if (interrupts(error)) throw;  // else it is a miss here all the same, and found again by the next one
    }
}

}  // namespace ringcast::bindings
