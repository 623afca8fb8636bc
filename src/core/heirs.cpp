#include "heirs.hpp"

#include <pthread.h>
#include <unistd.h>
#include <algorithm>
#include <utility>

#include "marks.hpp"
#include "platform/lock_file.hpp"
#include "platform/process.hpp"
#include "segment.hpp"

namespace ringcast {

namespace {
constexpr std::uint32_t kImages = kSpareSeats / 2;  // readers are to find seats as well
pthread_mutex_t registry_mutex = PTHREAD_MUTEX_INITIALIZER;
}  // namespace

// All seats of this process. Fork takes the mutex, so that the child finds the list whole.
struct HeirsRegistry {
    static inline Heirs* first = nullptr;

    template <class F>
    static void for_each(F f) noexcept {
        for (Heirs* heirs = first; heirs != nullptr; heirs = heirs->next_) f(*heirs);
    }
    static void before_fork() noexcept {
        pthread_mutex_lock(&registry_mutex);
        for_each([](Heirs& heirs) { heirs.before_fork(); });
    }
    static void after_fork_in_parent() noexcept {
        for_each([](Heirs& heirs) { heirs.after_fork_in_parent(); });
        pthread_mutex_unlock(&registry_mutex);
    }
    static void after_fork_in_child() noexcept {
        for_each([](Heirs& heirs) { heirs.after_fork_in_child(); });
        first = nullptr;
        pthread_mutex_unlock(&registry_mutex);
    }
    static void add(Heirs& heirs) noexcept {
        static const int installed = pthread_atfork(&HeirsRegistry::before_fork, &HeirsRegistry::after_fork_in_parent,
                                                    &HeirsRegistry::after_fork_in_child);
        (void)installed;
        pthread_mutex_lock(&registry_mutex);
        heirs.next_ = first;
        if (first != nullptr) first->previous_ = &heirs;
        first = &heirs;
        pthread_mutex_unlock(&registry_mutex);
    }
    static void remove(Heirs& heirs) noexcept {
        pthread_mutex_lock(&registry_mutex);
        if (heirs.previous_ != nullptr) heirs.previous_->next_ = heirs.next_;
        if (heirs.next_ != nullptr) heirs.next_->previous_ = heirs.previous_;
        if (first == &heirs) first = heirs.next_;
        pthread_mutex_unlock(&registry_mutex);
    }
};

Heirs::Heirs(const Segment& segment, std::uint32_t seat) noexcept
    : segment_(segment), seat_(seat), fork_generation_(platform::fork_generation()) {
    HeirsRegistry::add(*this);
}

Heirs::~Heirs() {
    if (fork_generation_ == platform::fork_generation()) HeirsRegistry::remove(*this);
}

int Heirs::open_locks() const noexcept {
    const int ours = segment_.locks().descriptor_if_ours();
    return ours == -1 ? -1 : platform::open_again(ours);
}

void Heirs::before_fork() noexcept {
    if (segment_.ring().seats[seat_].leased_blocks.load(std::memory_order_relaxed) == 0) return;
    inherited_ = open_locks();
    if (inherited_ != -1 && (join_image() || make_image())) return;
    if (inherited_ != -1) ::close(std::exchange(inherited_, -1));
    kept_.store(leases_.load(std::memory_order_relaxed), std::memory_order_relaxed);
}

void Heirs::after_fork_in_parent() noexcept {
    if (inherited_ != -1) ::close(std::exchange(inherited_, -1));
}

// The descriptor stays open until this process ends, or becomes another program: its views may be anywhere.
void Heirs::after_fork_in_child() noexcept {
    if (std::exchange(inherited_, -1) != -1)
        segment_.ring().seats[image_].pid.store(platform::process_id(), std::memory_order_relaxed);
}

// The last image shows too much at worst, as long as no view has been added and nobody has taken its seat.
bool Heirs::join_image() noexcept {
    if (image_ == kNoSeat || image_leases_ != leases_.load(std::memory_order_relaxed)) return false;
    if (!platform::try_lock_on(inherited_, seat_lock(image_), platform::Sharing::shared)) return false;
    if (segment_.ring().seats[image_].state.load(std::memory_order_relaxed) == image_word_) return true;
    ::close(inherited_);
    inherited_ = open_locks();
    return false;
}

bool Heirs::make_image() noexcept {
    const auto& ring = segment_.ring();
    const NativeSeat& mine = ring.seats[seat_];
    for (std::uint32_t i = std::max(ring.n_seats - kImages, seat_ + 1); i < ring.n_seats; ++i) {
        NativeSeat& image = ring.seats[i];
        const SeatState before = seat_state(image.state.load(std::memory_order_relaxed));
        if (before != SeatState::vacant && before != SeatState::evicted) continue;
        if (!platform::try_lock_on(inherited_, seat_lock(i), platform::Sharing::exclusive)) continue;
        const auto copy = [](auto& to, const auto& from) {
            to.store(from.load(std::memory_order_relaxed), std::memory_order_relaxed);
        };
        copy(image.rank, mine.rank);
        copy(image.pid, mine.pid);
        copy(image.pid_namespace, mine.pid_namespace);
        copy(image.leased_blocks, mine.leased_blocks);
        copy(image.leased_bytes, mine.leased_bytes);
        if (ringcast::make_image(ring, seat_, i, reached_.load(std::memory_order_relaxed),
                                 segment_.geometry().max_leases) &&
            platform::try_lock_on(inherited_, seat_lock(i), platform::Sharing::shared)) {
            image_ = i;
            image_word_ = image.state.load(std::memory_order_relaxed);
            image_leases_ = leases_.load(std::memory_order_relaxed);
            return true;
        }
        return false;
    }
    return false;
}

}  // namespace ringcast
