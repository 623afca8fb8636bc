// Dicts of figures, by a table of what each is called and which member of a struct has it:
//
//   constexpr std::tuple kCounters{std::pair{"lookups", &SeatCounters::lookups}, std::pair{"hits", &SeatCounters::hits}};
//   put(client, seat.counters, kCounters);
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <tuple>
#include <utility>

namespace ringcast::bindings {

// Of a word of shared memory, by itself: a figure for people.
template <class T>
T of(const std::atomic<T>& word) {
    return word.load(std::memory_order_relaxed);
}
template <class T>
T of(const T& value) {
    return value;
}

template <class Struct, class... Members>
void put(nanobind::dict& into, const Struct& from, const std::tuple<std::pair<const char*, Members>...>& table) {
    std::apply([&](const auto&... one) { ((into[one.first] = of(from.*one.second)), ...); }, table);
}

}  // namespace ringcast::bindings
