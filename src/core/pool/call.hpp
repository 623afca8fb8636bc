// What a client asks of its server, by a slot of its seat's mail: in slices, so that the caller looks at signals and his
// deadline in between.
#pragma once

#include "pool/client.hpp"

namespace ringcast::pool {

// One request. `begin`, slices until it is answered, then `take`; or `withdraw`.
class Call {
public:
    explicit Call(Client& client);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    // The client has its seat until the slot is free again. False: all slots of this client are in use, or wait for the server
    // to undo what was withdrawn; or it is closed.
    bool take_slot();
    NativeMailSlot& slot() const noexcept { return client_.memory_->own_seat().mail[index_]; }
    void begin(Ask kind, std::uint32_t count) noexcept;

    enum class Progress { answered, waiting, server_dead, closed };
    // Can an answer be hoped for, or a slot? Never `answered`.
    Progress outlook() const noexcept;
    bool briefly() noexcept;
    Progress slice(std::int64_t until_ns);
    // What was got is pinned. The slot is free again.
    void take() noexcept;
    bool refused() const noexcept {
        return slot().refused.load(std::memory_order_relaxed) == static_cast<std::uint32_t>(Refusal::senseless);
    }
    // False: it has just been answered.
    bool withdraw() noexcept;

private:
    bool answered() const noexcept;

    Client& client_;
    std::uint32_t index_ = kMailSlots;
    std::uint32_t number_ = 0;
    bool asked_ = false;
    Waiter<Native> waiter_;
};

}  // namespace ringcast::pool
