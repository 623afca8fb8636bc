// Token ids, from whatever holds integers, as little-endian u32 in memory: what is hashed.
#pragma once

#include <nanobind/nanobind.h>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace ringcast::bindings {

// A list, a tuple or another sequence of integers, or a buffer of one dimension of any integer type (NumPy's arrays, array,
// memoryview), which is read where it lies. Raises ArgumentTypeError for anything else.
class TokenIds {
public:
    explicit TokenIds(nanobind::handle ids);
    ~TokenIds();
    TokenIds(const TokenIds&) = delete;
    TokenIds& operator=(const TokenIds&) = delete;

    std::size_t size() const noexcept { return size_; }
    // Does `read` need the interpreter's lock, and that nobody else had it meanwhile? Such tokens are in a list.
    bool in_list() const noexcept { return list_.is_valid(); }
    // Reads the list to its end, however long that takes and whatever code of its elements runs: they are in none then. Raises
    // what is wrong with an element.
    void read_list();
    // Those from `begin` on, as many as there is room for. Returns the first one that is no token, or size(). In a list it is
    // only not a plain small one.
    std::size_t read(std::size_t begin, std::span<std::byte> into) const noexcept;
    // Raises what is to be said of a token, not in a list, that is none.
    [[noreturn]] void refuse(std::size_t index) const;

private:
    // `stride` in bytes. Returns false if any of them is no u32.
    using Convert = bool (*)(const char* from, std::ptrdiff_t stride, std::size_t count, std::byte* into);
    static Convert convert_of(const char* format, std::size_t bytes);
    std::size_t read_from_list(std::size_t begin, std::span<std::byte> into) const noexcept;
    void read_sequence(nanobind::handle sequence);
    void take(PyObject* element);

    nanobind::object list_;
    std::vector<std::uint32_t> read_;  // of a sequence
    Py_buffer buffer_{};
    const char* from_ = nullptr;
    std::ptrdiff_t stride_ = sizeof(std::uint32_t);
    Convert convert_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace ringcast::bindings
