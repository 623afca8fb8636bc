// A link's desk: who asks gets the answer that is meant for it, whoever else dies, and wherever.
#include "desk.hpp"

#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "errors.hpp"

using ringcast::Desk;
using ringcast::Place;

namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

std::string desk_name() {
    static int number = 0;
    return "ringcast_-" + std::to_string(getpid()) + "t" + std::to_string(number++);
}

std::unique_ptr<Desk> make(const std::string& name) { return Desk::create(name, "job", "1"); }

Place::Progress wait_until_over(Place& place) {
    for (;;)
        if (const auto progress = place.wait(kSecond); progress != Place::Progress::waiting) return progress;
}

std::string ask(Place& place, const std::string& what) {
    CHECK(place.begin(what) == Place::Begun::asked);
    CHECK(wait_until_over(place) == Place::Progress::answered);
    std::string reply = place.reply();
    place.end();
    return reply;
}

std::vector<Desk::Request> awaited(Desk& desk) {
    for (;;) {
        desk.wait(kSecond);
        if (auto requests = desk.take_requests(); !requests.empty()) return requests;
    }
}

bool answer(Desk& desk, const Desk::Request& request, const std::string& text) {
    return desk.answer(request.place, request.incarnation, request.number, text);
}

void sleep_ns(std::int64_t ns) {
    const timespec span{.tv_sec = 0, .tv_nsec = ns};
    nanosleep(&span, nullptr);
}

template <class Function>
pid_t in_child(Function&& function) {
    const pid_t child = fork();
    if (child == 0) {
        function();
        _exit(0);
    }
    return child;
}

int exit_code_of(pid_t child) {
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

void kill_now(pid_t child) {
    kill(child, SIGKILL);
    CHECK(exit_code_of(child) == -SIGKILL);
}

}  // namespace

TEST(two_that_ask_get_each_its_own_answer_whichever_is_answered_first) {
    const std::string name = desk_name();
    const auto desk = make(name);
    const auto a = Place::take(name, "1");
    const auto b = Place::take(name, "1");
    CHECK(a->begin("from a") == Place::Begun::asked);
    CHECK(a->begin("again") == Place::Begun::busy);
    CHECK(b->begin("from b") == Place::Begun::asked);
    const auto requests = awaited(*desk);
    CHECK(requests.size() == 2 && requests[0].text == "from a" && requests[1].text == "from b");
    CHECK(desk->take_requests().empty());
    CHECK(answer(*desk, requests[1], "to b"));
    CHECK(wait_until_over(*b) == Place::Progress::answered && b->reply() == "to b");
    CHECK(a->wait(0) == Place::Progress::waiting);
    CHECK(answer(*desk, requests[0], "to a"));
    CHECK(!answer(*desk, requests[0], "once more"));
    CHECK(wait_until_over(*a) == Place::Progress::answered && a->reply() == "to a");
}

TEST(what_was_given_up_is_not_answered_instead_of_what_was_asked_after_it) {
    const std::string name = desk_name();
    const auto desk = make(name);
    const auto place = Place::take(name, "1");
    CHECK(place->begin("first") == Place::Begun::asked);
    const auto first = awaited(*desk);
    place->end();
    CHECK(!answer(*desk, first[0], "late"));
    CHECK(place->begin("second") == Place::Begun::asked);
    CHECK(!answer(*desk, first[0], "later"));
    const auto second = awaited(*desk);
    CHECK(second[0].text == "second" && answer(*desk, second[0], "right"));
    CHECK(wait_until_over(*place) == Place::Progress::answered && place->reply() == "right");
    place->end();
    std::string longest(ringcast::DeskText::kBytes, 'x');
    longest.back() = 'y';
    CHECK(place->begin(longest) == Place::Begun::asked);
    CHECK(awaited(*desk)[0].text == longest);
}

TEST(the_answer_to_a_holder_that_died_goes_nowhere_and_its_place_serves_the_next) {
    const std::string name = desk_name();
    const auto desk = make(name);
    const pid_t child = in_child([&] {
        const auto place = Place::take(name, "1");
        place->begin("mine");
        for (;;) pause();
    });
    const auto its = awaited(*desk);
    CHECK(desk->held(its[0].place, its[0].incarnation) && desk->in_use());
    kill_now(child);
    CHECK(!desk->held(its[0].place, its[0].incarnation) && !desk->in_use());
    const auto next = Place::take(name, "1");
    CHECK(next->index() == its[0].place && next->incarnation() != its[0].incarnation);
    CHECK(!desk->held(its[0].place, its[0].incarnation));
    CHECK(next->begin("next") == Place::Begun::asked);
    CHECK(!answer(*desk, its[0], "to the dead"));
    const auto asked = awaited(*desk);
    CHECK(asked[0].text == "next" && answer(*desk, asked[0], "to the next"));
    CHECK(wait_until_over(*next) == Place::Progress::answered && next->reply() == "to the next");
}

TEST(askers_that_are_killed_at_any_instant_leave_the_desk_to_the_others) {
    const std::string name = desk_name();
    const auto desk = make(name);
    const auto ask_for_ever = [&] {
        for (int n = 0;; ++n) {
            const auto place = Place::take(name, "1");
            const std::string text = "of the doomed " + std::to_string(n);
            if (ask(*place, text) != text) _exit(3);
        }
    };
    const pid_t steady = in_child([&] {
        const auto place = Place::take(name, "1");
        for (int n = 0; n < 500 * check::kScale; ++n) {
            const std::string text = "of the steady " + std::to_string(n);
            if (ask(*place, text) != text) _exit(4);
        }
    });
    unsigned random = 1;
    pid_t doomed = in_child(ask_for_ever);
    std::int64_t due = ringcast::platform::monotonic_ns();
    int status = 0;
    while (waitpid(steady, &status, WNOHANG) == 0) {
        desk->wait(1'000'000);
        for (const auto& request : desk->take_requests()) answer(*desk, request, request.text);
        if (ringcast::platform::monotonic_ns() < due) continue;
        kill_now(doomed);
        doomed = in_child(ask_for_ever);
        random = random * 1'664'525 + 1'013'904'223;
        due = ringcast::platform::monotonic_ns() + 500'000 + random % 3'000'000;
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    kill_now(doomed);
    CHECK(!desk->in_use() && desk->close_if_unused());
}

TEST(a_link_that_is_killed_or_closes_ends_the_waits_at_its_desk) {
    const std::string name = desk_name();
    for (const bool killed : {true, false}) {
        int up[2];
        CHECK(pipe(up) == 0);
        const pid_t link = in_child([&] {
            const auto desk = make(name);
            if (write(up[1], "u", 1) != 1) _exit(1);
            awaited(*desk);
            if (killed) raise(SIGKILL);
            desk->close();
        });
        char byte = 0;
        CHECK(read(up[0], &byte, 1) == 1);
        const auto place = Place::take(name, "1");
        CHECK(place->begin("anybody?") == Place::Begun::asked);
        CHECK(wait_until_over(*place) == Place::Progress::link_died);
        place->end();
        CHECK(exit_code_of(link) == (killed ? -SIGKILL : 0));
        CHECK_THROWS(Place::take(name, "1"), segment_not_found);
        CHECK(ringcast::platform::list_names(name).empty());
        ::close(up[0]);
        ::close(up[1]);
    }
}

TEST(who_comes_while_the_link_closes_is_served_or_finds_no_desk) {
    for (int n = 0; n < 20 * check::kScale; ++n) {
        const std::string name = desk_name();
        const auto desk = make(name);
        const pid_t child = in_child([&] {
            try {
                const auto place = Place::take(name, "1");
                if (ask(*place, "x") != "x") _exit(3);
            } catch (const ringcast::Error& error) {
                if (error.code() != ringcast::ErrorCode::segment_not_found) _exit(4);
            }
        });
        sleep_ns(n % 7 * 50'000);
        while (!desk->close_if_unused()) {
            desk->wait(1'000'000);
            for (const auto& request : desk->take_requests()) answer(*desk, request, request.text);
        }
        CHECK(exit_code_of(child) == 0);
    }
}

TEST(a_place_may_be_closed_while_another_thread_waits_there) {
    const std::string name = desk_name();
    const auto desk = make(name);
    const auto place = Place::take(name, "1");
    CHECK(place->begin("wait") == Place::Begun::asked);
    std::thread waits([&] {
        CHECK(wait_until_over(*place) == Place::Progress::closed);
        place->end();
    });
    awaited(*desk);
    place->close();
    place->close();
    waits.join();
    CHECK(!desk->in_use());
    CHECK(place->begin("after") == Place::Begun::closed);
}

TEST(more_ends_than_there_are_places_are_refused_and_so_is_another_release) {
    const std::string name = desk_name();
    const auto desk = make(name);
    CHECK_THROWS(make(name), segment_exists);
    CHECK_THROWS(Place::take(name, "2"), segment_mismatch);
    std::vector<std::unique_ptr<Place>> places;
    for (std::uint32_t i = 0; i < ringcast::kDeskPlaces; ++i) places.push_back(Place::take(name, "1"));
    CHECK_THROWS(Place::take(name, "1"), capacity);
    places.erase(places.begin() + 7);
    CHECK(Place::take(name, "1")->index() == 7);
}
