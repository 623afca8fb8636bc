#include "scenarios.hpp"

#include "select.hpp"
#include "tap.hpp"

namespace model {

namespace {

Thread writer(World& world, void (*does)(Writer&)) {
    return {"writer", [&world, does] {
                Writer self(world);
                does(self);
            }};
}

// A reader of the seat that stays for so many messages, and then leaves.
Thread reader(World& world, std::uint32_t seat, std::uint64_t most, const char* name = "reader") {
    return {name, [&world, seat, most] {
                Reader self(world, seat);
                if (!self.attach()) return;
                self.read(most);
                self.leave();
                self.unlock();
            }};
}

constexpr std::uint64_t kAll = UINT64_MAX;

// Another thread of the writer's process, which takes blocks back.
Thread keeper(World& world) {
    return {"keeper", [&world] { Writer::keep_arena(world); }};
}

// Reads one message with a lease, and reads the lease's block when it has left its seat.
Thread leasing_reader(World& world, std::uint32_t seat) {
    return {"reader", [&world, seat] {
                Reader self(world, seat);
                if (!self.attach()) return;
                const bool has_one = self.read(1, true) == Ended::enough;
                self.leave();
                if (has_one) self.end_lease();
                self.unlock();
            }};
}

// A reader that goes on where the seat's last one was, if that has been kept, to the end.
Thread next_reader(World& world, std::uint32_t seat) {
    return {"next", [&world, seat] {
                Reader self(world, seat);
                if (!self.attach()) return;
                self.read(UINT64_MAX);
                self.leave();
                self.unlock();
            }};
}

// Promises the seat's rank what is sent from now on.
Thread exporter(World& world, std::uint32_t seat) {
    return {"exporter", [&world, seat] { Writer::expect(world, seat); }};
}

// A link that reads through the seat so many messages, `ahead` of them before it has the first acknowledged.
Thread link(World& world, std::uint64_t most, std::uint64_t ahead = 1) {
    return {"link", [&world, most, ahead] {
                Tap self(world, 0);
                self.claim();
                if (ahead > 1 && !self.take(ahead - 1)) return;
                for (std::uint64_t n = 1; n <= most; ++n) {
                    if (n + ahead - 1 <= most && !self.take(1)) return;
                    self.acknowledge(n);
                }
            }};
}

// To the end.
void take_all(Tap& tap) {
    for (std::uint64_t n = tap.position() + 1; tap.take(1); ++n) tap.acknowledge(n);
}

// A link that takes a message, and is lost before it is acknowledged.
Thread lost_link(World& world) {
    return {"link", [&world] {
                Tap self(world, 0);
                self.claim();
                self.take(1);
                self.leave(false);
            }};
}

// Who was expected in the seat reads through another one.
Thread placer(World& world) {
    return {"placer", [&world] { Tap::forgo(world, 0); }};
}

// Stops the thread with that number for ever, at any moment.
Thread killer(std::uint8_t thread) {
    return {"killer", [thread] { Explorer::the().kill(thread, Site::current()); }};
}

void send_2(Writer& self) { self.send(), self.send(); }
void send_3(Writer& self) { self.send(), self.send(), self.send(); }
void send_3_and_close(Writer& self) { send_3(self), self.close(); }
void send_2_and_close(Writer& self) { send_2(self), self.close(); }
void send_2_blocks(Writer& self) { self.send_block(), self.send_block(); }
void send_2_blocks_and_close(Writer& self) { send_2_blocks(self), self.close(); }

}  // namespace

const std::vector<Scenario>& scenarios() {
    static const std::vector<Scenario> all{
        {"a message",
         "the reader parks for it",
         {.state = SeatState::active},
         [](World& w) { return std::vector{writer(w, [](Writer& self) { self.send(); }), reader(w, 0, 1)}; }},
        {"room",
         "the writer parks for it",
         {.state = SeatState::active},
         [](World& w) { return std::vector{writer(w, send_2), reader(w, 0, 2)}; }},
        {"the end",
         "the reader parks for it",
         {.state = SeatState::active},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.send(), self.close(); }), reader(w, 0, kAll)};
         }},
        {"two slots",
         "the writer is ahead of the reader",
         {.depth = 2, .state = SeatState::active},
         [](World& w) { return std::vector{writer(w, send_3), reader(w, 0, 3)}; }},
        {"a batch",
         "two messages, announced once",
         {.depth = 2, .state = SeatState::active},
         [](World& w) {
             return std::vector{writer(w,
                                       [](Writer& self) {
                                           self.send(Writer::Announce::later), self.send(Writer::Announce::later);
                                           self.announce();
                                       }),
                                reader(w, 0, 2)};
         }},
        {"two readers",
         "each gates the writer",
         {.seats = 2, .state = SeatState::active},
         [](World& w) {
             return std::vector{writer(w, send_2), reader(w, 0, 1, "reader 0"), reader(w, 1, 1, "reader 1")};
         },
         100'000},
        {"expected",
         "a reader comes late to its seat",
         {},
         [](World& w) { return std::vector{writer(w, send_2), reader(w, 0, 2)}; }},
        {"joining",
         "a reader takes a vacant seat while the writer runs",
         {.state = SeatState::vacant},
         [](World& w) { return std::vector{writer(w, send_3_and_close), reader(w, 0, 1)}; }},
        {"joining two slots",
         "the same, with the writer a lap ahead",
         {.depth = 2, .state = SeatState::vacant},
         [](World& w) { return std::vector{writer(w, send_3_and_close), reader(w, 0, 1)}; }},
        {"leaving",
         "a reader leaves, and the writer uses its slot again",
         {.state = SeatState::active},
         [](World& w) { return std::vector{writer(w, send_3), reader(w, 0, 1)}; }},
        {"leaving unread",
         "a message that was copied and not consumed",
         {.state = SeatState::active},
         [](World& w) {
             return std::vector{writer(w, send_2), Thread{"reader", [&w] {
                                                              Reader self(w, 0);
                                                              self.attach();
                                                              self.look_and_leave();
                                                          }}};
         }},
        {"joining a batch",
         "that is announced when a slot is needed again",
         {.state = SeatState::vacant},
         [](World& w) {
             return std::vector{writer(w,
                                       [](Writer& self) {
                                           for (int i = 0; i < 3; ++i) self.send(Writer::Announce::later);
                                           self.close();
                                       }),
                                reader(w, 0, 1)};
         }},
        {"a seat's next reader",
         "one leaves, the next takes the seat",
         {},
         [](World& w) { return std::vector{writer(w, send_2), reader(w, 0, 1, "reader"), reader(w, 0, 0, "next")}; }},
        {"evicted",
         "while the reader copies",
         {.state = SeatState::active},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.send(), self.evict(0), self.send(); }),
                                reader(w, 0, 2)};
         }},
        {"evicted while it waits",
         "and is woken to hear of it",
         {.state = SeatState::active},
         [](World& w) { return std::vector{writer(w, [](Writer& self) { self.evict(0); }), reader(w, 0, kAll)}; }},
        {"given up",
         "an expected reader that comes just then",
         {},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.send(), self.evict(0), self.send(), self.close(); }),
                                reader(w, 0, 1)};
         }},
        {"killed",
         "a reader, at any moment; its rank is taken again",
         {},
         [](World& w) {
             return std::vector{writer(w, send_2), reader(w, 0, 1, "reader"), killer(1), reader(w, 0, 0, "restarted")};
         },
         100'000},
        {"killed and followed",
         "its rank's next reader goes on where it was",
         {},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.dead = Writer::Dead::wait, send_2_and_close(self); }),
                                reader(w, 0, kAll), killer(1), next_reader(w, 0)};
         },
         100'000},
        {"killed, told and followed",
         "a death that the writer's user knows of",
         {},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.dead = Writer::Dead::tell, send_2_and_close(self); }),
                                reader(w, 0, kAll), killer(1), next_reader(w, 0)};
         },
         100'000},
        {"failed",
         "a reader that gives up; its rank's next one goes on",
         {},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.dead = Writer::Dead::wait, send_2_and_close(self); }),
                                Thread{"reader",
                                       [&w] {
                                           Reader self(w, 0);
                                           if (!self.attach()) return;
                                           self.read(1);
                                           self.leave(false);
                                           self.unlock();
                                       }},
                                next_reader(w, 0)};
         },
         100'000},
        {"killed with a block",
         "that it had marked; the next reader leases it",
         {.depth = 2, .state = SeatState::active, .blocks = 1},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.dead = Writer::Dead::wait, send_2_blocks(self); }),
                                reader(w, 0, 1), killer(1), Thread{"next", [&w] {
                                                                       Reader self(w, 0);
                                                                       if (!self.attach()) return;
                                                                       if (self.read(1, true) == Ended::enough)
                                                                           self.end_lease();
                                                                       self.leave();
                                                                       self.unlock();
                                                                   }}};
         },
         100'000},
        {"a joiner killed",
         "at any moment; the writer finds out",
         {.state = SeatState::vacant},
         [](World& w) { return std::vector{writer(w, send_2), reader(w, 0, 1), killer(1)}; }},
        {"the writer killed",
         "at any moment; what was published is read",
         {.depth = 2, .state = SeatState::active},
         [](World& w) { return std::vector{writer(w, send_2), reader(w, 0, kAll), killer(0)}; }},
        {"one block",
         "used again for each message",
         {.depth = 2, .state = SeatState::active, .blocks = 1},
         [](World& w) { return std::vector{writer(w, send_2_blocks), reader(w, 0, 2)}; }},
        {"a lease",
         "that ends after its reader has left",
         {.depth = 2, .state = SeatState::active, .blocks = 1},
         [](World& w) { return std::vector{writer(w, send_2_blocks), leasing_reader(w, 0)}; },
         100'000},
        {"evicted with a block",
         "which nobody may overwrite",
         {.state = SeatState::active, .blocks = 1},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.send_block(), self.evict(0), self.send_block(); }),
                                reader(w, 0, 2)};
         }},
        {"evicted with two blocks",
         "and the next message's descriptor",
         {.state = SeatState::active, .blocks = 2},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.send_block(), self.evict(0), self.send_block(); }),
                                reader(w, 0, 2)};
         }},
        {"a row used again",
         "whose mark is an earlier message's",
         {.depth = 2, .state = SeatState::active, .blocks = 1},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { send_2_blocks(self), self.send_block(); }),
                                Thread{"reader", [&w] {
                                           Reader self(w, 0);
                                           self.attach();
                                           self.read(1);
                                           self.read(1, true);
                                           self.end_lease();
                                           self.leave();
                                       }}};
         },
         100'000},
        {"a lease and the seat's next reader",
         "who joins behind the leased message",
         {.depth = 2, .state = SeatState::active, .blocks = 1},
         [](World& w) {
             return std::vector{writer(w, send_2_blocks), leasing_reader(w, 0), Thread{"next", [&w] {
                                                                                           Reader self(w, 0);
                                                                                           if (self.attach())
                                                                                               self.leave();
                                                                                       }}};
         },
         100'000},
        {"a fork",
         "whose child views a block for longer than its parent",
         {.seats = 2, .depth = 2, .state = SeatState::active, .blocks = 2},
         [](World& w) {
             return std::vector{
                 writer(w, [](Writer& self) { self.send_block(), self.send_block(), self.send_block(); }),
                 Thread{"parent",
                        [&w] {
                            Reader self(w, 0);
                            self.attach();
                            self.read(1, true);
                            self.make_image(1);
                            self.end_lease();
                            self.read(1);
                            self.leave();
                            self.look_as_child(1);
                            self.unlock();
                        }},
                 Thread{"who leaves", [&w] {
                            Reader self(w, 1);
                            self.attach();
                            self.leave();
                            self.unlock();
                        }}};
         },
         100'000},
        {"idle memory",
         "is taken back by another thread than that which sends",
         {.depth = 2, .state = SeatState::active, .blocks = 1, .keeper = true},
         [](World& w) { return std::vector{writer(w, send_2_blocks), reader(w, 0, 2), keeper(w)}; },
         100'000},
        {"idle memory and a joiner",
         "whom the other thread's scan may miss",
         {.depth = 2, .state = SeatState::vacant, .blocks = 1, .keeper = true},
         [](World& w) { return std::vector{writer(w, send_2_blocks_and_close), reader(w, 0, 1), keeper(w)}; },
         100'000},
        {"idle memory and an eviction",
         "of who may be reading the block",
         {.depth = 2, .state = SeatState::active, .blocks = 1, .keeper = true},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.send_block(), self.evict(0), self.send_block(); }),
                                reader(w, 0, 2), keeper(w)};
         },
         100'000},
        {"joining with blocks",
         "a reader may hold a block it joined at",
         {.depth = 2, .state = SeatState::vacant, .blocks = 1},
         [](World& w) { return std::vector{writer(w, send_2_blocks_and_close), reader(w, 0, 1)}; }},
        {"expected from now on",
         "by another thread than the one that sends",
         {.state = SeatState::vacant},
         [](World& w) { return std::vector{writer(w, send_2_and_close), exporter(w, 0), next_reader(w, 0)}; },
         100'000},
        {"expected after a reader",
         "that has left, or comes only then",
         {.state = SeatState::vacant},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.send(), self.await_slot_once(); }), reader(w, 0, 1),
                                exporter(w, 0)};
         },
         100'000},
        {"expected after a lease",
         "whose block is used again",
         {.depth = 2, .state = SeatState::active, .blocks = 1},
         [](World& w) {
             return std::vector{writer(w, send_2_blocks), leasing_reader(w, 0), Thread{"exporter", [&w] {
                                                                                           Writer::expect(w, 0);
                                                                                           Reader self(w, 0);
                                                                                           if (self.attach())
                                                                                               self.leave();
                                                                                       }}};
         },
         100'000},
        {"expected while the writer waits",
         "for a cursor that is just being set",
         {.state = SeatState::vacant},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.send(), self.await_slot_once(); }), exporter(w, 0)};
         }},
        {"all ready",
         "what was done before is seen by who hears of it",
         {.state = SeatState::active, .blocks = 1},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.prepare_and_confirm(); }),
                                Thread{"reader", [&w] {
                                           Reader self(w, 0);
                                           if (self.attach()) self.await_ready();
                                       }}};
         }},
        {"roused",
         "a reader that waits, by another thread of its process",
         {.state = SeatState::active},
         [](World& w) {
             return std::vector{writer(w, [](Writer&) {}),
                                Thread{"reader",
                                       [&w] {
                                           Reader self(w, 0);
                                           if (self.attach()) self.await_rouse();
                                       }},
                                Thread{"rouser", [&w] { ringcast::rouse<Policy>(w.roused, w.ring.seats[0].parked); }}};
         }},
        {"two ends at once",
         "messages of one, and another that is roused",
         {.depth = 2, .state = SeatState::active},
         [](World& w) {
             return std::vector{writer(w, send_2), Thread{"selector", [&w] { select_and_read(w, 2, 1); }},
                                Thread{"rouser", [&w] { ringcast::rouse<Policy>(w.arrived, w.far_parked); }}};
         },
         20'000},
        {"an end of many",
         "its messages come while it is armed, read and armed again",
         {.depth = 2, .state = SeatState::active},
         [](World& w) {
             return std::vector{writer(w, send_2), Thread{"selector", [&w] { select_and_read(w, 2, 0); }}};
         }},
        {"roused among many",
         "with a message",
         {.state = SeatState::active},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.send(); }),
                                Thread{"selector", [&w] { select_and_read(w, 1, 1); }},
                                Thread{"rouser", [&w] { ringcast::rouse<Policy>(w.arrived, w.far_parked); }}};
         }},
        {"an end of many, and one that parks on it",
         "two threads wait for the same end",
         {.depth = 2, .state = SeatState::active},
         [](World& w) {
             return std::vector{writer(w, send_2), Thread{"selector", [&w] { select_beside(w, 2); }},
                                Thread{"parker", [&w] { read_beside(w, 1); }}};
         },
         20'000},
        {"a chain that is evicted",
         "and pinned and read meanwhile",
         {.blocks = 2},
         [](World& w) {
             return std::vector{Thread{"server", [&w] { evict_and_reuse(w); }},
                                Thread{"client", [&w] { pin_and_read(w); }}};
         },
         0,
         Scenario::Pool::filled},
        {"a chunk that is aborted",
         "while it is pinned and read",
         {.blocks = 2},
         [](World& w) {
             return std::vector{Thread{"server", [&w] { abort_and_reuse(w); }},
                                Thread{"client", [&w] { pin_and_read(w); }}};
         },
         0,
         Scenario::Pool::filled},
        {"a chunk that comes",
         "in the place of another, looked for without a pin",
         {.blocks = 2},
         [](World& w) {
             return std::vector{Thread{"server", [&w] { evict_and_reuse(w); }},
                                Thread{"client", [&w] { look_for_the_next(w); }}};
         },
         0,
         Scenario::Pool::filled},
        {"a chunk that comes back from a tier",
         "in another block, while it is pinned and read",
         {.blocks = 2},
         [](World& w) {
             return std::vector{Thread{"server", [&w] { evict_to_a_tier_and_take_back(w); }},
                                Thread{"client", [&w] { pin_and_read_where_it_lies(w); }}};
         },
         0,
         Scenario::Pool::filled},
        {"a chunk that a tier has dropped",
         "whose entry is another's then, looked for without a pin",
         {.blocks = 2},
         [](World& w) {
             return std::vector{Thread{"server", [&w] { evict_to_a_tier_and_take_back(w); }},
                                Thread{"client", [&w] { look_for_the_next_in_tiers(w); }}};
         },
         0,
         Scenario::Pool::filled},
        {"a reservation",
         "asked for, pinned, filled",
         {.blocks = 2},
         [](World& w) {
             return std::vector{Thread{"server", [&w] { serve(w); }},
                                Thread{"client", [&w] { reserve_and_fill(w, false); }}};
         },
         0,
         Scenario::Pool::empty},
        {"a reservation withdrawn",
         "or answered just before",
         {.blocks = 2},
         [](World& w) {
             return std::vector{Thread{"server", [&w] { serve(w); }},
                                Thread{"client", [&w] { reserve_and_fill(w, true); }}};
         },
         0,
         Scenario::Pool::empty},
        {"a reservation and a killed client",
         "whose block is another's then",
         {.blocks = 2},
         [](World& w) {
             return std::vector{Thread{"server", [&w] { serve(w); }},
                                Thread{"client", [&w] { reserve_and_fill(w, false); }}, killer(1)};
         },
         0,
         Scenario::Pool::empty},
        {"a reservation and a killed server",
         "adopted at every step",
         {.blocks = 2},
         [](World& w) {
             return std::vector{Thread{"server", [&w] { serve(w); }},
                                Thread{"client", [&w] { reserve_and_fill(w, true); }}, killer(0),
                                Thread{"adopter", [&w] { adopt(w); }}};
         },
         0,
         Scenario::Pool::empty},
        {"a group",
         "whose last part makes the chunk visible",
         {.blocks = 2},
         [](World& w) {
             return std::vector{
                 Thread{"server", [&w] { serve_group(w, false); }}, Thread{"member 0", [&w] { fill_part(w, 0); }},
                 Thread{"member 1", [&w] { fill_part(w, 1); }}, Thread{"reader", [&w] { read_group(w); }}};
         },
         0,
         Scenario::Pool::group},
        {"a group that is given up",
         "while its parts are filled and committed",
         {.blocks = 2},
         [](World& w) {
             return std::vector{Thread{"server", [&w] { serve_group(w, true); }},
                                Thread{"member 0", [&w] { fill_part(w, 0); }},
                                Thread{"member 1", [&w] { fill_part(w, 1); }}};
         },
         0,
         Scenario::Pool::group},
        {"a group and a killed member",
         "whose part is there, or never comes",
         {.blocks = 2},
         [](World& w) {
             return std::vector{Thread{"server", [&w] { serve_group(w, false); }},
                                Thread{"member 0", [&w] { fill_part(w, 0); }},
                                Thread{"member 1", [&w] { fill_part(w, 1); }}, killer(1)};
         },
         0,
         Scenario::Pool::group},
        {"a part that is joined",
         "while the server is killed, and the next one looks who has it",
         {.blocks = 2},
         [](World& w) {
             return std::vector{Thread{"server", [&w] { serve_join(w); }}, Thread{"client", [&w] { join_and_fill(w); }},
                                killer(0), Thread{"adopter", [&w] { adopt_group(w); }}};
         },
         0,
         Scenario::Pool::joinable},
        {"events",
         "read while the next one takes their place",
         {.blocks = 2},
         [](World& w) {
             return std::vector{Thread{"server", [&w] { note_events(w); }}, Thread{"watcher", [&w] { read_event(w); }}};
         },
         0,
         Scenario::Pool::empty},
        {"a departure",
         "that the writer looks for",
         {.state = SeatState::active},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.look_for_departures(); }), reader(w, 0, 0)};
         }},
        {"ready",
         "a reader that the writer has waited for misses nothing",
         {.state = SeatState::vacant},
         [](World& w) {
             return std::vector{
                 writer(w, [](Writer& self) { self.await_readers(), self.send(), self.close(); }),
                 Thread{"reader", [&w] {
                            Reader self(w, 0);
                            if (self.attach()) {
                                Explorer::the().expect(
                                    self.first() == 0,
                                    "a message that was sent when the reader had attached is not for it");
                                self.read(1);
                            }
                        }}};
         }},
        {"a stream",
         "takes a seat that was kept for a reader elsewhere",
         {.remote = 1},
         [](World& w) { return std::vector{writer(w, send_2), link(w, 2)}; }},
        {"a stream that comes late",
         "just when the writer gives up waiting",
         {.remote = 1},
         [](World& w) {
             return std::vector{
                 writer(w, [](Writer& self) { self.send(), self.give_up_absent(0), self.send(), self.close(); }),
                 Thread{"link", [&w] {
                            Tap self(w, 0);
                            self.claim();
                            take_all(self);
                        }}};
         },
         20'000},
        {"placed elsewhere",
         "the writer waits for a seat that nobody will take",
         {.remote = 1},
         [](World& w) { return std::vector{writer(w, send_2), placer(w)}; }},
        {"placed elsewhere or given up",
         "by the link and the writer at once",
         {.remote = 1},
         [](World& w) {
             return std::vector{
                 writer(w, [](Writer& self) { self.send(), self.give_up_absent(0), self.send(), self.close(); }),
                 placer(w)};
         }},
        {"placed elsewhere, and followed",
         "by a reader of the writer's own machine",
         {.remote = 1},
         [](World& w) { return std::vector{writer(w, send_2_and_close), placer(w), reader(w, 0, 1)}; },
         20'000},
        {"two of a machine",
         "one seat is the stream's, the other's reader reads through it",
         {.seats = 2, .remote = 2},
         [](World& w) {
             return std::vector{writer(w, send_2), Thread{"link", [&w] {
                                                              Tap self(w, 0);
                                                              self.claim();
                                                              Tap::forgo(w, 1);
                                                              self.take(1), self.acknowledge(1);
                                                              self.take(1), self.acknowledge(2);
                                                          }}};
         },
         20'000},
        {"one that comes again, before another has come",
         "its stream begins with the next message, and leaves the home of the other to him",
         {.seats = 2, .depth = 2, .remote = 2},
         [](World& w) {
             return std::vector{writer(w, send_3_and_close), Thread{"link", [&w] {
                                                                        Tap once(w, 0);
                                                                        once.claim();
                                                                        once.take(1), once.acknowledge(1);
                                                                        once.leave(true);
                                                                        Tap again(w, 0);
                                                                        again.claim();
                                                                        Tap::forgo(w, 1);
                                                                        take_all(again);
                                                                    }}};
         },
         20'000},
        {"reading ahead",
         "of what is acknowledged",
         {.depth = 2, .state = SeatState::active, .remote = 1},
         [](World& w) { return std::vector{writer(w, send_3), link(w, 3, 2)}; },
         20'000},
        {"reading blocks ahead",
         "which come back when they are acknowledged",
         {.depth = 2, .state = SeatState::active, .blocks = 2, .remote = 1},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { send_2_blocks(self), self.send_block(); }), link(w, 3, 2)};
         },
         20'000},
        {"a link lost",
         "that has read ahead, and says so",
         {.state = SeatState::active, .remote = 1},
         [](World& w) { return std::vector{writer(w, send_2), lost_link(w)}; }},
        {"a link lost with a block",
         "that it has read ahead",
         {.depth = 2, .state = SeatState::active, .blocks = 1, .remote = 1},
         [](World& w) { return std::vector{writer(w, send_2_blocks), lost_link(w)}; }},
        {"a link killed",
         "at any moment, with a block that it has read ahead",
         {.depth = 2, .state = SeatState::active, .blocks = 1, .remote = 1},
         [](World& w) { return std::vector{writer(w, send_2_blocks), lost_link(w), killer(1)}; }},
        {"a cut",
         "with messages, or what has become of them, half out",
         {.depth = 2, .state = SeatState::active, .remote = 1},
         [](World& w) {
             return std::vector{writer(w, send_3),
                                Thread{"link",
                                       [&w] {
                                           Tap self(w, 0);
                                           self.claim(), self.send_over_wire(3);
                                       }},
                                Thread{"other link", [&w] { Tap::publish_elsewhere(w, 3); }}};
         },
         20'000},
        {"a wish",
         "to go on without a reader elsewhere that has just come",
         {.remote = 1},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.await_placed(), self.ask_to_evict(0); }),
                                Thread{"link", [&w] {
                                           Tap self(w, 0);
                                           self.claim();
                                           self.place(0);
                                           self.await_order();
                                       }}};
         }},
        {"news",
         "of a reader elsewhere, that the writer looks for",
         {.remote = 1},
         [](World& w) {
             return std::vector{writer(w, [](Writer& self) { self.look_for_news(); }),
                                Thread{"link", [&w] { Tap(w, 0).place(0); }}};
         }},
    };
    return all;
}

}  // namespace model
