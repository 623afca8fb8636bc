// Who waits for many ends at once, as Selection does with the headers: a seat's messages, and what another thread does.
#pragma once

#include "armed.hpp"
#include "ends.hpp"

namespace model {

// Seat 0, or what another thread rouses.
struct Source {
    World* world;
    bool is_seat;
    bool armed = false;

    ringcast::Parked<Policy>& parked() const { return is_seat ? world->ring.seats[0].parked : world->far_parked; }
    bool something() const;
};

// Reads so many messages of seat 0, one for each time that it can be read, and waits as often to be roused.
void select_and_read(World& world, std::uint64_t messages, std::uint32_t rouses);
// Waits for a message of seat 0 until so many have been read, by another thread of its process.
void select_beside(World& world, std::uint64_t messages);
// That thread: parks on the seat as well, and reads so many.
void read_beside(World& world, std::uint64_t messages);

}  // namespace model
