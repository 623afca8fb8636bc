// What a refusal of the system means for shared memory: the one place that knows which limit, mount or sandbox is behind
// an errno, and what to do about it.
#pragma once

#include <cerrno>
#include <cstdint>
#include <string>

namespace ringcast::platform {

// What was asked of the system.
enum class Asked {
    file,     // a new file in the place of shared memory
    open,     // an existing one, or the place itself
    size,     // to have a file so large
    memory,   // to reserve some for a file
    mapping,  // addresses, or memory of this process alone
    second,   // to open a file by its descriptor
    name,     // to give a file its name
    lock,
    thread,  // another thread of this process
};

// Throws `system`: what was tried, the errno's text, the cause as far as it can be told, and the remedy.
[[noreturn]] void throw_refused(Asked asked, const std::string& what, int error = errno);

// Why it was refused, as far as it can be told, and the remedy; empty if nothing is known.
std::string remedy_of(Asked asked, int error);
// The same of a user's own file, on any file system.
std::string remedy_of_file(const std::string& path, int error);

// Asked before a file is sized: who exceeds the limit is killed by SIGXFSZ unless he ignores it.
bool exceeds_file_size_limit(std::uint64_t bytes) noexcept;

}  // namespace ringcast::platform
