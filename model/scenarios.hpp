// What is explored: each scenario is a small queue and what its ends do with it.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "ends.hpp"

namespace model {

struct Scenario {
    const char* name;
    const char* about;
    Shape shape;
    std::vector<Thread> (*threads)(World&);
    std::uint64_t walks = 0;  // 0: explored exhaustively; else too large for that, and walked at random so many times
};

const std::vector<Scenario>& scenarios();

// The scenario's queue and program. One at a time.
class Stage {
public:
    explicit Stage(const Scenario& scenario) : world_(scenario.shape) {
        program_ = {.name = scenario.name, .threads = scenario.threads(world_), .at_start = {}, .at_end = {}};
        program_.at_start = [this] { world_.start(); };
    }
    const Program& program() const { return program_; }

private:
    World world_;
    Program program_;
};

}  // namespace model
