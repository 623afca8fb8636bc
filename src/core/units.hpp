// Sizes in messages.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace ringcast {

inline std::string in_units(std::uint64_t bytes) {  // "1.5 MiB", "300 bytes"
    char text[32];
    if (bytes >= (std::uint64_t{1} << 20))
        std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
    else
        std::snprintf(text, sizeof text, "%llu bytes", static_cast<unsigned long long>(bytes));
    return text;
}

}  // namespace ringcast
