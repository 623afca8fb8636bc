// The native floor program: one measurement a call, JSON on standard output.
//
//   ringcast_floor pingpong CPU_A CPU_B BLOCKS
//   ringcast_floor wake     CPU_WAKER CPU_SLEEPER COUNT IDLE_US
//   ringcast_floor memcpy   CPU SECONDS_PER_SIZE
//   ringcast_floor between  CPU BYTES SOURCES DESTINATIONS SECONDS
//   ringcast_floor ring     CPU_WRITER CPU_READER[,CPU_READER...] MESSAGES MESSAGE_BYTES DEPTH
//   ringcast_floor chain    CPU_WRITER CPU_READER TRIPS
//   ringcast_floor pump     CPU_WRITER CPU_READER BYTES DEPTH SECONDS
//   ringcast_floor tcp      CPU_SENDER CPU_RECEIVER BYTES SECONDS
//
// Exit status 2: asked for something this build does not have.
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "chain.hpp"
#include "common.hpp"
#include "copy.hpp"
#include "pingpong.hpp"
#include "pump.hpp"
#include "ring_rate.hpp"
#include "wake.hpp"

namespace {

using namespace floor_program;

std::vector<int> cpu_list(const std::string& text) {
    std::vector<int> cpus;
    std::istringstream in(text);
    for (std::string cpu; std::getline(in, cpu, ',');) {
        cpus.push_back(std::stoi(cpu));
    }
    return cpus;
}

int run(const std::vector<std::string>& words) {
    const std::string what = words.empty() ? "" : words[0];
    if (what == "pingpong" && words.size() == 4) {
        const PingPongResult r = ping_pong(std::stoi(words[1]), std::stoi(words[2]), std::stoull(words[3]));
        std::printf("{\"p50_ns\": %.2f, \"p99_ns\": %.2f}\n", r.one_way_p50_ns, r.one_way_p99_ns);
        return 0;
    }
    if (what == "wake" && words.size() == 5) {
        const std::vector<double> wakes =
            futex_wakes(std::stoi(words[1]), std::stoi(words[2]), std::stoull(words[3]), std::stoull(words[4]) * 1000);
        std::printf("{\"one_way_ns\": [");
        for (std::size_t i = 0; i < wakes.size(); ++i) {
            std::printf("%s%.0f", i == 0 ? "" : ", ", wakes[i]);
        }
        std::printf("]}\n");
        return 0;
    }
    if (what == "memcpy" && words.size() == 3) {
        std::printf("{\"rates\": [");
        const char* comma = "";
        for (const CopyRate& r : copy_rates(std::stoi(words[1]), std::stod(words[2]))) {
            std::printf("%s{\"bytes\": %zu, \"gb_per_s\": %.3f}", comma, r.bytes, r.gigabytes_per_s);
            comma = ", ";
        }
        std::printf("]}\n");
        return 0;
    }
    if (what == "between" && words.size() == 6) {
        const double rate = copy_between(std::stoi(words[1]), std::stoull(words[2]), std::stoull(words[3]),
                                         std::stoull(words[4]), std::stod(words[5]));
        std::printf("{\"gb_per_s\": %.3f}\n", rate);
        return 0;
    }
    if (what == "ring" && words.size() == 6) {
#if defined(RINGCAST_FLOOR_HAS_RING)
        const double rate = ring_rate(std::stoi(words[1]), cpu_list(words[2]), std::stoull(words[3]),
                                      std::stoull(words[4]), std::stoull(words[5]));
        std::printf("{\"messages_per_s\": %.1f}\n", rate);
        return 0;
#else
        (void)cpu_list;
        std::fprintf(stderr, "built without the core: no ring to measure\n");
        return 2;
#endif
    }
    if (what == "chain" && words.size() == 4) {
        const double p50 = chain(std::stoi(words[1]), std::stoi(words[2]), std::stoull(words[3]));
        std::printf("{\"p50_ns\": %.1f}\n", p50);
        return 0;
    }
    if (what == "pump" && words.size() == 6) {
        const double rate = pump(std::stoi(words[1]), std::stoi(words[2]), std::stoull(words[3]), std::stoull(words[4]),
                                 std::stod(words[5]));
        std::printf("{\"messages_per_s\": %.1f}\n", rate);
        return 0;
    }
    if (what == "tcp" && words.size() == 5) {
        const double rate =
            tcp_rate(std::stoi(words[1]), std::stoi(words[2]), std::stoull(words[3]), std::stod(words[4]));
        std::printf("{\"gb_per_s\": %.4f}\n", rate);
        return 0;
    }
    std::fprintf(stderr, "usage: ringcast_floor pingpong|wake|memcpy|between|ring|chain|pump|tcp ... (see main.cpp)\n");
    return 2;
}

}  // namespace

int main(int argc, char** argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    try {
        return run(std::vector<std::string>(argv + 1, argv + argc));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "ringcast_floor: %s\n", error.what());
        return 1;
    }
}
