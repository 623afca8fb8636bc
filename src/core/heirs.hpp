// What a forked child inherits of a seat: the views that were alive at that moment.
//
// To whoever owns the memory a child is a holder that left with its views alive, which it knows already: before the fork a
// spare seat is made the image of the parent's, with all that it holds, and its lock byte is taken on a description that the
// child inherits and the parent closes. So what the parent viewed then is kept until the child, and whoever it forks,
// has ended or become another program, in whatever order the parent lets go. Children of the same views share an image,
// and its lock. Where no seat is free, or no descriptor, the parent never gives back what it held then.
//
// It costs a fork some microseconds for each seat that has views, and no copy of what they show.
#pragma once

#include <cstdint>

#include "platform/lock_file.hpp"

namespace ringcast {

// What a seat holds, as its kind knows it: a reader's of a queue, a client's of a pool. Called by the thread that forks.
class Estate {
public:
    static constexpr std::uint32_t kNoSeat = UINT32_MAX;

    virtual const platform::LockFile& locks() const noexcept = 0;
    // From before the fork until after it, in both processes, nothing is added and nothing given back.
    virtual void hold_still() noexcept {}
    virtual void go_on() noexcept {}
    virtual bool is_empty() const noexcept = 0;
    // Changes when anything is added.
    virtual std::uint64_t added() const noexcept = 0;
    // Takes the lock byte of a seat with a higher number by `locks`, alone, and makes it hold what this one holds; kNoSeat
    // if there is none.
    virtual std::uint32_t make_image(int locks) noexcept = 0;
    // The state of a seat that is an image: another one says that it is no more.
    virtual std::uint64_t word_of(std::uint32_t image) const noexcept = 0;
    // In the child, which holds it now.
    virtual void inherited(std::uint32_t image) noexcept = 0;
    // A child has what is held now, and there was no seat for it: it is never given back.
    virtual void keep() noexcept = 0;

protected:
    ~Estate() = default;
};

class Heirs {
public:
    // The estate is whole already, and outlives this.
    explicit Heirs(Estate& estate) noexcept;
    ~Heirs();
    Heirs(const Heirs&) = delete;
    Heirs& operator=(const Heirs&) = delete;

private:
    friend struct HeirsRegistry;

    void before_fork() noexcept;
    void after_fork_in_parent() noexcept;
    void after_fork_in_child() noexcept;
    int open_locks() const noexcept;
    bool join_image() noexcept;
    bool make_image() noexcept;

    Estate& estate_;
    std::uint32_t fork_generation_;
    int inherited_ = -1;                     // during a fork: the description that the child keeps
    std::uint32_t image_ = Estate::kNoSeat;  // the last one
    std::uint64_t image_word_ = 0;           // its state
    std::uint64_t image_added_ = 0;          // what `added` was when it was made
    Heirs* next_ = nullptr;
    Heirs* previous_ = nullptr;
};

}  // namespace ringcast
