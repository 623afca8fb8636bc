// Tries what ringcast needs of the system, each by itself, with the very functions that queues use.
#pragma once

#include <string>
#include <vector>

namespace ringcast::platform {

struct Probe {
    const char* feature;
    bool needed;          // false: something slower stands in for it
    std::string failure;  // empty: it works
};

// Makes one segment of a few pages named `name`, and leaves nothing.
std::vector<Probe> probe_features(const std::string& name);

}  // namespace ringcast::platform
