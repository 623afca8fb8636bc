// A server's mailboxes: whose bell has rung, what is asked copied before any of it is believed, and the answer, at once or when
// tiers have done what it takes.
#include <algorithm>
#include <bit>

#include "parking.hpp"
#include "pool/mailbox.hpp"
#include "pool/server.hpp"

namespace ringcast::pool {

bool Server::take_requests() {
    if (!rung()) return false;
    take_touches();  // before anything is evicted for what is asked
    bool any = false;
    auto& bits_of = memory_->bell().rung;
    for (std::uint32_t word = 0; word < std::size(bits_of); ++word) {
        if (bits_of[word].load(std::memory_order_relaxed) == 0) continue;
        std::uint64_t bits = bits_of[word].exchange(0, std::memory_order_acquire);  // acquire [bell]
        for (; bits != 0; bits &= bits - 1) {
            const std::uint32_t seat = word * 64 + static_cast<std::uint32_t>(std::countr_zero(bits));
            if (seat >= memory_->header().n_seats) continue;
            if (serve_seat(seat))
                any = true;
            else
                look_after(seat);  // who rings and asks for nothing may have left
        }
    }
    return any;
}

bool Server::serve_seat(std::uint32_t seat) {
    if (seat_state(memory_->seat(seat).state.load(std::memory_order_acquire)) !=
        PoolSeatState::taken)  // acquire [seat]
        return false;
    bool any = false;
    for (std::uint32_t i = 0; i < kMailSlots; ++i) {
        const auto phase = mail_phase(memory_->seat(seat).mail[i].word.load(std::memory_order_relaxed));
        if (phase != MailPhase::asked && phase != MailPhase::withdrawn) continue;
        serve_slot(seat, i);
        any = true;
    }
    return any;
}

void Server::serve_slot(std::uint32_t seat, std::uint32_t i) {
    NativeMailSlot& slot = memory_->seat(seat).mail[i];
    const std::uint64_t word = read_mail<Native>(slot.word);
    const std::uint32_t number = mail_number(word);
    request_.owner = {.seat = seat,
                      .incarnation = seat_incarnation(memory_->seat(seat).state.load(std::memory_order_relaxed)),
                      .slot = i,
                      .request = number};
    bool answered = false;
    keeper_.read_clock();
    if (mail_phase(word) == MailPhase::asked) {
        if (is_deferred(request_.owner)) return;
        if (copy(slot, word)) {
            const Done done = perform(slot);
            if (done == Done::later) return;
            slot.refused.store(static_cast<std::uint32_t>(done == Done::yes ? Refusal::none : Refusal::senseless),
                               std::memory_order_relaxed);
            if (done == Done::no) memory_->words().refused.fetch_add(1, std::memory_order_relaxed);
            Native::reached(FaultPoint::pool_answer_begin);
            answered = answer<Native>(slot.word, number);
        }
    }
    if (answered) {
        Native::reached(FaultPoint::pool_answered);
        Native::fence_seq_cst();  // [signal]
        unpark<Native>(slot.parked);
        note_misses();
        return;
    }
    if (slot.word.load(std::memory_order_relaxed) != mail_word(number, MailPhase::withdrawn)) return;
    std::erase_if(deferred_, [&](const DeferredRequest& one) {
        if (one->owner.seat != seat || one->owner.slot != i) return false;
        one->over = true;
        return true;
    });
    keeper_.undo(request_.owner);
    forget<Native>(slot.word, number);
}

// False: it was withdrawn while it was copied.
bool Server::copy(NativeMailSlot& slot, std::uint64_t word) {
    Request& r = request_;
    r.kind = static_cast<Ask>(slot.kind.load(std::memory_order_relaxed));
    r.count = slot.count.load(std::memory_order_relaxed);
    r.length = slot.length.load(std::memory_order_relaxed);
    r.chained = slot.chained.load(std::memory_order_relaxed) != 0;
    r.has_parent = slot.has_parent.load(std::memory_order_relaxed) != 0;
    r.checked = slot.checked.load(std::memory_order_relaxed) != 0;
    r.parts = slot.parts.load(std::memory_order_relaxed);
    r.tenant = slot.tenant.load(std::memory_order_relaxed);
    r.space = slot.space.load(std::memory_order_relaxed);
    for (std::size_t k = 0; k < 4; ++k) r.parent.words[k] = slot.parent[k].load(std::memory_order_relaxed);
    for (std::uint32_t i = 0; i < std::min(r.count, kBatch); ++i) {
        const MailItem& item = slot.items[i];
        for (std::size_t k = 0; k < 4; ++k) r.items[i].key.words[k] = item.digest[k].load(std::memory_order_relaxed);
        r.items[i].entry = item.entry.load(std::memory_order_relaxed);
        r.items[i].generation = item.generation.load(std::memory_order_relaxed);
        r.items[i].checksum = item.checksum.load(std::memory_order_relaxed);
    }
    Native::fence_acquire();
    return slot.word.load(std::memory_order_relaxed) == word;
}

bool Server::is_deferred(const Owner& owner) const noexcept {
    return std::ranges::any_of(deferred_, [&](const DeferredRequest& one) {
        return one->owner.seat == owner.seat && one->owner.slot == owner.slot &&
               one->owner.incarnation == owner.incarnation && one->owner.request == owner.request;
    });
}

Server::DeferredRequest Server::defer() {
    deferred_.push_back(std::make_shared<Deferred>(Deferred{request_.owner}));
    return deferred_.back();
}

// A server that dies before leaves it asked, and the next one does it again.
void Server::answer_deferred(const DeferredRequest& request, Refusal refusal) noexcept {
    if (request->over) return;
    std::erase(deferred_, request);
    const Owner& owner = request->owner;
    NativeMailSlot& slot = memory_->seat(owner.seat).mail[owner.slot];
    slot.refused.store(static_cast<std::uint32_t>(refusal), std::memory_order_relaxed);
    Native::reached(FaultPoint::pool_answer_begin);
    if (!answer<Native>(slot.word, owner.request)) return;  // it is forgotten when it is found withdrawn
    Native::reached(FaultPoint::pool_answered);
    Native::fence_seq_cst();  // [signal]
    unpark<Native>(slot.parked);
}

}  // namespace ringcast::pool
