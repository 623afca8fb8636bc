// What is explored: each scenario is a small queue and what its ends do with it.
#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "ends.hpp"
#include "pool.hpp"

namespace model {

struct Scenario {
    const char* name;
    const char* about;
    Shape shape;
    std::vector<Thread> (*threads)(World&);
    std::uint64_t walks = 0;  // 0: explored exhaustively; else too large for that, and walked at random so many times
    enum class Pool { none, filled, empty, group, joinable } pool = Pool::none;
};

const std::vector<Scenario>& scenarios();

// The scenario's queue and program. One at a time.
class Stage {
public:
    explicit Stage(const Scenario& scenario) : world_(scenario.shape) {
        if (scenario.pool != Scenario::Pool::none) world_.pool = &pool_.emplace();
        if (scenario.pool == Scenario::Pool::filled) pool_->fill();
        if (scenario.pool == Scenario::Pool::group || scenario.pool == Scenario::Pool::joinable)
            pool_->reserve_for_group(scenario.pool == Scenario::Pool::group);
        program_ = {.name = scenario.name, .threads = scenario.threads(world_), .at_start = {}, .at_end = {}};
        program_.at_start = [this] {
            world_.start();
            if (pool_) pool_->start();
        };
    }
    const Program& program() const { return program_; }

private:
    World world_;
    std::optional<PoolWorld> pool_;
    Program program_;
};

}  // namespace model
