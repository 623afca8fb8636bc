// The trace of a violation: one line for each step, with what it read or wrote, and the source line that took it.
#include <cstdio>
#include <fstream>
#include <map>

#include "explorer.hpp"

#ifndef MODEL_ROOT
#define MODEL_ROOT "."
#endif

namespace model {

namespace {

std::string file_of(const Site& site) {
    const std::string path = site.file_name();
    return path.substr(path.rfind('/') + 1);
}

std::string place_of(const Site& site) {
    return site.line() == 0 ? "" : file_of(site) + ":" + std::to_string(site.line());
}

std::string source_of(const Site& site) {
    static std::map<std::string, std::vector<std::string>> files;
    const std::string path = site.file_name();
    auto& lines = files[path];
    if (lines.empty()) {
        std::ifstream file(path.starts_with("/") ? path : MODEL_ROOT "/" + path);
        for (std::string line; std::getline(file, line);) lines.push_back(line);
        lines.emplace_back();
    }
    if (site.line() == 0 || site.line() > lines.size()) return "";
    const std::string& line = lines[site.line() - 1];
    const std::size_t begin = line.find_first_not_of(' ');
    return begin == std::string::npos ? "" : line.substr(begin);
}

}  // namespace

std::string Explorer::thread_name(std::uint8_t thread) const {
    return thread < n_threads_ ? program_->threads[thread].name : "the start";
}

std::string Explorer::name_of(std::uint32_t id) const {
    for (const auto& [address, text] : names_)
        if (address == addresses_[id]) return text;
    return "location " + std::to_string(id);
}

std::string Explorer::text_of(std::uint32_t id, const Value& value) const {
    if (value[0] == kPoison) return "torn";
    return describe_ ? describe_(name_of(id), value[0]) : std::to_string(value[0]);
}

void Explorer::note(Site site, const std::string& text) {
    const bool weakened = threads_[current_].at_mutant;
    char line[512];
    std::snprintf(line, sizeof line, "%3d  %-10s %-46s %s  %s\n", ++trace_steps_, thread_name(current_).c_str(),
                  text.c_str(), place_of(site).c_str(), source_of(site).c_str());
    trace_ += line;
    if (weakened) trace_ += "                    ^ here the code is weaker than it was written\n";
}

std::string Explorer::note_write(std::uint32_t id, std::size_t position) const {
    const auto& stores = memory_.location(id).stores;
    std::string text = " := " + text_of(id, stores[position].value);
    if (position + 1 < stores.size())
        text += ", which comes before the " + text_of(id, stores[position + 1].value) + " of " +
                thread_name(stores[position + 1].thread);
    return text;
}

std::string Explorer::note_read(std::uint32_t id, std::uint8_t position) const {
    const auto& stores = memory_.location(id).stores;
    std::string text = " = " + text_of(id, stores[position].value);
    if (stores[position].thread == kNoThread)
        text += " (initial)";
    else if (stores[position].thread != current_)
        text += " (" + thread_name(stores[position].thread) + ")";
    if (position + 1u < stores.size()) {
        const Store& newer = stores[position + 1u];
        text += "; stale: " + thread_name(newer.thread) + " has stored " + text_of(id, newer.value) + " at " +
                place_of(newer.site) + ", and nothing that " + thread_name(current_) +
                " has acquired or fenced says so\n" + std::string(63, ' ');
    }
    return text;
}

}  // namespace model
