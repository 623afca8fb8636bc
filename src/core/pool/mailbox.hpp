// A mailbox slot: one request at a time, with one outcome that both sides know.
//
// The slot's word is moved by compare-and-swap where both sides may move it: the server answers only what has not been
// withdrawn, the client withdraws only what has not been answered. Whoever dies, and wherever: a request that was asked
// is answered by the next server; what a withdrawn or half-done one had reserved is undone; a dead client's is forgotten.
#pragma once

#include <cstdint>

#include "pool/pool_layout.hpp"

namespace ringcast::pool {

template <class P>
using MailWord = typename P::template atomic<std::uint64_t>;

// The client's, whose slot is idle and whose request is written.
template <class P>
void ask(MailWord<P>& word, std::uint32_t number) noexcept {
    word.store(mail_word(number, MailPhase::asked), std::memory_order_release);  // release [ask]
}

// The client's: has it been answered? What it holds from then on it pins before it takes the answer.
template <class P>
bool is_answered(const MailWord<P>& word, std::uint32_t number) noexcept {
    return word.load(std::memory_order_acquire) == mail_word(number, MailPhase::answered);  // acquire [answer]
}

// The client's. relaxed: who finds the slot idle finds the pins that were made for its answer, by [pin] and [collect].
template <class P>
void take(MailWord<P>& word, std::uint32_t number) noexcept {
    word.store(mail_word(number, MailPhase::idle), std::memory_order_relaxed);
}

// The client's, whose time is over. False: it has just been answered.
template <class P>
bool withdraw(MailWord<P>& word, std::uint32_t number) noexcept {
    std::uint64_t asked = mail_word(number, MailPhase::asked);
    if (word.compare_exchange_strong(asked, mail_word(number, MailPhase::withdrawn), std::memory_order_relaxed))
        return true;
    P::fence_acquire();  // acquire [answer]
    return false;
}

// The server's: with what was asked.
template <class P>
std::uint64_t read_mail(const MailWord<P>& word) noexcept {
    return word.load(std::memory_order_acquire);  // acquire [ask]
}

// The server's, who has done it and written what is answered. False: it has been withdrawn, and is to be undone.
template <class P>
bool answer(MailWord<P>& word, std::uint32_t number) noexcept {
    std::uint64_t asked = mail_word(number, MailPhase::asked);
    return word.compare_exchange_strong(asked, mail_word(number, MailPhase::answered),
                                        std::memory_order_release,  // release [answer]
                                        std::memory_order_relaxed);
}

// The server's: can the client still come to know what was answered to this request? Asked before its pins are collected.
template <class P>
bool is_offered(const MailWord<P>& word, std::uint32_t number) noexcept {
    return word.load(std::memory_order_relaxed) == mail_word(number, MailPhase::answered);
}

// The server's: all is undone, the slot may be used again. relaxed: nothing goes with it.
template <class P>
void forget(MailWord<P>& word, std::uint32_t number) noexcept {
    word.store(mail_word(number, MailPhase::idle), std::memory_order_relaxed);
}

}  // namespace ringcast::pool
