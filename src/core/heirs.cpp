#include "heirs.hpp"

#include <pthread.h>
#include <unistd.h>
#include <utility>

#include "locks.hpp"

namespace ringcast {

namespace {
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

Heirs::Heirs(Estate& estate) noexcept : estate_(estate), fork_generation_(platform::fork_generation()) {
    HeirsRegistry::add(*this);
}

Heirs::~Heirs() {
    if (fork_generation_ == platform::fork_generation()) HeirsRegistry::remove(*this);
}

int Heirs::open_locks() const noexcept {
    const int ours = estate_.locks().descriptor_if_ours();
    return ours == -1 ? -1 : platform::open_again(ours);
}

void Heirs::before_fork() noexcept {
    estate_.hold_still();
    if (estate_.is_empty()) return;
    inherited_ = open_locks();
    if (inherited_ != -1 && (join_image() || make_image())) return;
    if (inherited_ != -1) ::close(std::exchange(inherited_, -1));
    estate_.keep();
}

void Heirs::after_fork_in_parent() noexcept {
    if (inherited_ != -1) ::close(std::exchange(inherited_, -1));
    estate_.go_on();
}

// The descriptor stays open until this process ends, or becomes another program: its views may be anywhere.
void Heirs::after_fork_in_child() noexcept {
    if (std::exchange(inherited_, -1) != -1) estate_.inherited(image_);
    estate_.go_on();
}

// The last image shows too much at worst, as long as no view has been added and nobody has taken its seat.
bool Heirs::join_image() noexcept {
    if (image_ == Estate::kNoSeat || image_added_ != estate_.added()) return false;
    if (!platform::try_lock_on(inherited_, seat_lock(image_), platform::Sharing::shared)) return false;
    if (estate_.word_of(image_) == image_word_) return true;
    ::close(inherited_);
    inherited_ = open_locks();
    return false;
}

bool Heirs::make_image() noexcept {
    if (inherited_ == -1) return false;
    const std::uint32_t image = estate_.make_image(inherited_);
    if (image == Estate::kNoSeat || !platform::try_lock_on(inherited_, seat_lock(image), platform::Sharing::shared))
        return false;
    image_ = image;
    image_word_ = estate_.word_of(image);
    image_added_ = estate_.added();
    return true;
}

}  // namespace ringcast
