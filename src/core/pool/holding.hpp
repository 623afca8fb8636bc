// What a lease holds: its pins, which views of single chunks may need for longer than the lease lasts.
//
// When the lease ends, each of its places is shortened to the last chunk that a view still shows, and so on as views go. A
// pin holds the ancestors of its chunk, so of a run nothing needs a place of its own, and there is no moment at which what
// is viewed is not held.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "pool/client.hpp"

namespace ringcast::pool {

class Holding {
public:
    explicit Holding(std::shared_ptr<Client> client) : client_(std::move(client)) {}
    ~Holding() { client_->unpin(places); }
    Holding(const Holding&) = delete;
    Holding& operator=(const Holding&) = delete;

    Client::Places places;  // by rising looks; the lease's alone until the first view

    // A view of what the lease's look `index` says, which is held.
    void show(std::uint32_t index, const Look& look) {
        const std::lock_guard guard(mutex_);
        ++shown_.try_emplace(index, Shown{look, 0}).first->second.views;
    }
    // It is gone.
    void hide(std::uint32_t index) noexcept {
        const std::lock_guard guard(mutex_);
        const auto shown = shown_.find(index);
        if (--shown->second.views != 0) return;
        shown_.erase(shown);
        if (!ended_) return;
        const auto place = std::ranges::lower_bound(places, index, {}, &Place::last);
        if (place != places.end() && place->last == index) settle(place);
    }
    // The lease is over.
    void end() noexcept {
        const std::lock_guard guard(mutex_);
        ended_ = true;
        if (shown_.empty()) {
            client_->unpin(places);
            return;
        }
        for (auto place = places.end(); place != places.begin();) settle(--place);
    }

private:
    struct Shown {
        Look look;
        std::uint32_t views;
    };

    // Holds of a place what is still shown of it.
    void settle(Client::Places::iterator place) noexcept {
        const auto behind = shown_.upper_bound(place->last);
        if (behind == shown_.begin() || std::prev(behind)->first < place->first) {
            client_->unpin(*place);
            places.erase(place);
            return;
        }
        const auto& [index, shown] = *std::prev(behind);
        if (index == place->last) return;
        client_->shorten(*place, shown.look);
        place->last = index;
    }

    std::shared_ptr<Client> client_;
    CallersMutex mutex_;
    std::map<std::uint32_t, Shown> shown_;  // by look
    bool ended_ = false;
};

}  // namespace ringcast::pool
