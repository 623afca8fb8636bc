// What model/check.py runs, one scenario or mutant at a time. Its answers are lines of fields, separated by tabs; a
// trace follows a violation.
//
//     model list                              each scenario: name, what it is about, random walks (0: exhaustive)
//     model explore SCENARIO MOST             every execution, or so many
//     model bounded SCENARIO BOUND MOST       every execution that costs at most so much
//     model walk SCENARIO WALKS SEED          random ones
//     model hunt MUTANT ORDER BOUND           the simplest violation that a weakened place has in any scenario
//     model exhaust MUTANT ORDER MOST         every execution of the scenarios that reach it; walks of large ones
//
// MUTANT -1 is the code as it is.
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "scenarios.hpp"

namespace {

using namespace model;

void print(const Scenario& scenario, const Result& result, int bound = 0) {
    std::printf("%s\t%llu\t%llu\t%llu\t%llu\t%s\t%d\t%llu\t%d\t%s\n%s", scenario.name,
                static_cast<unsigned long long>(result.executions), static_cast<unsigned long long>(result.redundant),
                static_cast<unsigned long long>(result.steps), static_cast<unsigned long long>(result.executed_mutant),
                result.complete ? "complete" : "cut", bound, static_cast<unsigned long long>(result.seed),
                result.trace_steps, result.violation.c_str(), result.trace.c_str());
}

const Scenario* find(std::string_view name) {
    for (const Scenario& scenario : scenarios())
        if (scenario.name == name) return &scenario;
    std::fprintf(stderr, "model: no scenario is called '%s'\n", std::string(name).c_str());
    return nullptr;
}

std::memory_order order_named(std::string_view name) {
    return name == "acquire"   ? std::memory_order_acquire
           : name == "release" ? std::memory_order_release
           : name == "acq_rel" ? std::memory_order_acq_rel
                               : std::memory_order_relaxed;
}

Result search(const Scenario& scenario, const Search& how) {
    const Stage stage(scenario);
    return Explorer::the().explore(stage.program(), how);
}

// With rising bounds, so that what is found first is the simplest; at each, over all scenarios.
int hunt(int highest, bool mutated) {
    constexpr std::uint64_t kMost = 200'000;
    std::vector<bool> reached(scenarios().size(), true);
    Result total;
    for (int bound = 0; bound <= highest; ++bound)
        for (std::size_t i = 0; i < scenarios().size(); ++i) {
            if (bound > 1 && !reached[i]) continue;
            const Scenario& scenario = scenarios()[i];
            Result result = search(scenario, {.kind = Search::Kind::cheapest, .bound = bound, .most = kMost});
            reached[i] = !mutated || result.executed_mutant != 0;
            total.executions += result.executions;
            total.steps += result.steps;
            if (result.violation.empty()) continue;
            result.executions = total.executions;
            result.steps = total.steps;
            print(scenario, result, bound);
            return 1;
        }
    print({.name = "all", .about = "", .shape = {}, .threads = nullptr}, total, highest);
    return 0;
}

int exhaust(std::uint64_t most) {
    for (const Scenario& scenario : scenarios()) {
        if (search(scenario, {.kind = Search::Kind::cheapest, .bound = 1}).executed_mutant == 0) continue;
        const Result result =
            scenario.walks == 0 ? search(scenario, {.most = most})
                                : search(scenario, {.kind = Search::Kind::random, .seed = 1, .walks = scenario.walks});
        print(scenario, result);
        if (!result.violation.empty()) return 1;
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    const std::vector<std::string> words(argv + 1, argv + argc);
    const std::string command = words.empty() ? "" : words[0];
    if (command == "list") {
        for (const Scenario& s : scenarios())
            std::printf("%s\t%s\t%llu\n", s.name, s.about, static_cast<unsigned long long>(s.walks));
        return 0;
    }
    if (words.size() == 3 && command == "explore") {
        const Scenario* scenario = find(words[1]);
        if (scenario == nullptr) return 2;
        const Result result = search(*scenario, {.most = std::stoull(words[2])});
        print(*scenario, result);
        return result.violation.empty() ? 0 : 1;
    }
    if (words.size() == 4 && command == "bounded") {
        const Scenario* scenario = find(words[1]);
        if (scenario == nullptr) return 2;
        const Result result = search(
            *scenario, {.kind = Search::Kind::cheapest, .bound = std::stoi(words[2]), .most = std::stoull(words[3])});
        print(*scenario, result);
        return result.violation.empty() ? 0 : 1;
    }
    if (words.size() == 4 && command == "walk") {
        const Scenario* scenario = find(words[1]);
        if (scenario == nullptr) return 2;
        const Result result = search(
            *scenario, {.kind = Search::Kind::random, .seed = std::stoull(words[3]), .walks = std::stoull(words[2])});
        print(*scenario, result);
        return result.violation.empty() ? 0 : 1;
    }
    if (words.size() == 4 && (command == "hunt" || command == "exhaust")) {
        Explorer::the().weaken(std::stoi(words[1]), order_named(words[2]));
        return command == "hunt" ? hunt(std::stoi(words[3]), std::stoi(words[1]) >= 0) : exhaust(std::stoull(words[3]));
    }
    std::fprintf(stderr, "usage: model list | explore | bounded | walk | hunt | exhaust: see model/main.cpp\n");
    return 2;
}
