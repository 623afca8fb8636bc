// Does anybody still want the result of a call that waits?
#pragma once

#include <nanobind/nanobind.h>

#include "platform/process.hpp"

namespace ringcast::bindings {

enum class Wanted { always, for_now, no_more };

// One for each wait, asked between its slices.
class Interest {
public:
    // `no_more`: certainly nobody can get it (ringcast._futures); `for_now`: that may still come true.
    Wanted look() {
        // No pool has begun the main thread. To find out about others takes Python a millisecond where all has been idle.
        if (for_good_ || platform::on_main_thread()) return Wanted::always;
        const nanobind::object given_up = nanobind::module_::import_("ringcast._futures").attr("is_given_up")();
        for_good_ = given_up.is_none();
        if (for_good_) return Wanted::always;
        return nanobind::cast<bool>(given_up) ? Wanted::no_more : Wanted::for_now;
    }

private:
    bool for_good_ = false;
};

}  // namespace ringcast::bindings
