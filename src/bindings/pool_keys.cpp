#include "pool_keys.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "methods.hpp"
#include "modules.hpp"
#include "py_errors.hpp"

namespace ringcast::bindings {

namespace nb = nanobind;
using namespace nb::literals;
using pool::Digest;
using pool::kDigestBytes;

namespace {

// Room that keys made behind others may use later, so that a chain that grows is copied now and then, not each time.
std::size_t with_slack(std::size_t count) { return count + count / 4 + 4; }

// "a Namespace, not of type X"
[[noreturn]] void refuse(const char* what, const char* expected, nb::handle found) {
    raise("ArgumentTypeError", std::string(what) + " must be " + expected + ", not of type " +
                                   nb::cast<std::string>(nb::str(found.type().attr("__qualname__"))));
}

Digest digest_from(const char* what, nb::handle bytes) {
    if (!PyBytes_Check(bytes.ptr())) refuse(what, "32 bytes", bytes);
    if (PyBytes_GET_SIZE(bytes.ptr()) != static_cast<Py_ssize_t>(kDigestBytes))
        raise("ArgumentError",
              std::string(what) + " must be 32 bytes, not " + std::to_string(PyBytes_GET_SIZE(bytes.ptr())));
    Digest digest;
    std::memcpy(&digest, PyBytes_AS_STRING(bytes.ptr()), kDigestBytes);
    return digest;
}

std::string hex(const Digest& digest, std::size_t bytes) {
    static constexpr char kDigits[] = "0123456789abcdef";
    const auto* at = reinterpret_cast<const unsigned char*>(&digest);
    std::string text;
    for (std::size_t i = 0; i < bytes; ++i) text += {kDigits[at[i] >> 4], kDigits[at[i] & 0xf]};
    return text;
}

Keys make_keys(nb::handle space, nb::handle digests, nb::handle parent) {
    auto read = read_space(space);
    if (!PyBytes_Check(digests.ptr())) refuse("digests", "bytes", digests);
    const auto bytes = static_cast<std::size_t>(PyBytes_GET_SIZE(digests.ptr()));
    if (bytes % kDigestBytes != 0)
        raise("ArgumentError", "digests must be 32 bytes for each key, not " + std::to_string(bytes) + " in all");
    Digest before;
    if (!parent.is_none()) before = digest_from("parent", parent);
    const std::size_t count = bytes / kDigestBytes;
    Keys::Room room = new_room(count);
    if (count != 0) std::memcpy(room.digests, PyBytes_AS_STRING(digests.ptr()), bytes);
    return Keys(std::move(read), std::move(room.buffer), room.digests, count, parent.is_none() ? nullptr : &before);
}

nb::object as_bytes(const Keys& keys) {
    const auto digests = keys.digests();
    return owned(PyBytes_FromStringAndSize(reinterpret_cast<const char*>(digests.data()),
                                           static_cast<Py_ssize_t>(digests.size_bytes())));
}

nb::object parent_of(const Keys& keys) {
    return keys.parent() == nullptr ? nb::object(nb::none()) : digest_as_bytes(*keys.parent());
}

Py_ssize_t length(PyObject* self) {
    return translated(Py_ssize_t{-1}, [&] { return static_cast<Py_ssize_t>(keys_of("self", self).digests().size()); });
}

PyObject* item(PyObject* self, Py_ssize_t index) {
    return translated<PyObject*>(nullptr, [&]() -> PyObject* {
        const auto digests = keys_of("self", self).digests();
        if (index >= 0 && static_cast<std::size_t>(index) < digests.size())
            return digest_as_bytes(digests[static_cast<std::size_t>(index)]).release().ptr();
        PyErr_SetString(PyExc_IndexError, "Keys index out of range");
        return nullptr;
    });
}

PyObject* subscript(PyObject* self, PyObject* index) {
    return translated<PyObject*>(nullptr, [&]() -> PyObject* {
        const Keys& keys = keys_of("self", self);
        const auto size = static_cast<Py_ssize_t>(keys.digests().size());
        if (PySlice_Check(index)) {
            Py_ssize_t begin = 0, end = 0, step = 0;
            if (PySlice_Unpack(index, &begin, &end, &step) != 0) throw nb::python_error();
            if (step != 1)
                raise("ArgumentError", "Keys are a run: a slice must have step 1, not " + std::to_string(step));
            const Py_ssize_t count = PySlice_AdjustIndices(size, &begin, &end, step);
            return nb::cast(keys.slice(static_cast<std::size_t>(begin), static_cast<std::size_t>(count)))
                .release()
                .ptr();
        }
        const Py_ssize_t at = PyNumber_AsSsize_t(index, PyExc_IndexError);
        if (at == -1 && PyErr_Occurred() != nullptr) throw nb::python_error();
        return item(self, at < 0 ? at + size : at);
    });
}

int contains(PyObject* self, PyObject* key) {
    return translated(-1, [&] {
        const auto digests = keys_of("self", self).digests();
        if (!PyBytes_Check(key) || PyBytes_GET_SIZE(key) != static_cast<Py_ssize_t>(kDigestBytes)) return 0;
        return std::ranges::find(digests, digest_from("key", key)) != digests.end() ? 1 : 0;
    });
}

PyObject* concatenate(PyObject* left, PyObject* right) {
    if (!nb::isinstance<Keys>(left) || !nb::isinstance<Keys>(right)) return Py_NewRef(Py_NotImplemented);
    return translated<PyObject*>(
        nullptr, [&] { return nb::cast(keys_of("self", left).joined_with(keys_of("more", right))).release().ptr(); });
}

PyObject* compare(PyObject* left, PyObject* right, int operation) {
    if ((operation != Py_EQ && operation != Py_NE) || !nb::isinstance<Keys>(right)) return Py_NewRef(Py_NotImplemented);
    return translated<PyObject*>(nullptr, [&] {
        const bool same = keys_of("self", left) == keys_of("other", right);
        return Py_NewRef(same == (operation == Py_EQ) ? Py_True : Py_False);
    });
}

Py_hash_t hash(PyObject* self) {
    return translated(Py_hash_t{-1}, [&] {
        const Keys& keys = keys_of("self", self);
        std::uint64_t mixed = keys.space().digest.words[0] + keys.digests().size();
        if (!keys.digests().empty()) mixed ^= keys.digests().front().words[0] + keys.digests().back().words[1];
        const auto result = static_cast<Py_hash_t>(mixed);
        return result == -1 ? Py_hash_t{-2} : result;
    });
}

PyObject* represent(PyObject* self) {
    return translated<PyObject*>(nullptr, [&] {
        const Keys& keys = keys_of("self", self);
        const auto digests = keys.digests();
        std::string text = "Keys(" + std::to_string(digests.size()) + " of namespace " + hex(keys.space().digest, 4);
        if (!digests.empty()) text += ": " + hex(digests.front(), 4);
        if (digests.size() > 1) text += " to " + hex(digests.back(), 4);
        return nb::str((text + ")").c_str()).release().ptr();
    });
}

int traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    return nb::inst_ready(self) ? nb::inst_ptr<Keys>(self)->traverse(visit, arg) : 0;
}

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
    view->obj = nullptr;
    return translated(-1, [&] {
        const auto digests = keys_of("self", self).digests();
        return PyBuffer_FillInfo(view, self, const_cast<Digest*>(digests.data()),
                                 static_cast<Py_ssize_t>(digests.size_bytes()), 1, flags);
    });
}

}  // namespace

Keys Keys::slice(std::size_t begin, std::size_t count) const {
    return Keys(space_, buffer_, first_ + begin, count, begin == 0 ? parent() : &first_[begin - 1]);
}

Keys Keys::joined_with(const Keys& more) const {
    if (space().digest != more.space().digest)
        raise("ArgumentError", "keys of namespace " + hex(more.space().digest, 4) +
                                   " cannot follow keys of namespace " + hex(space().digest, 4));
    if (space().chained && !(count_ == 0 && !has_parent_)) {
        if (more.parent() == nullptr || *more.parent() != *last())
            raise("ArgumentError", std::string("these keys do not continue the chain: they follow ") +
                                       (more.parent() == nullptr ? "nothing" : hex(*more.parent(), 4)) +
                                       ", and the last key is " + hex(*last(), 4) + "; make them with after=");
    }
    if (more.count_ == 0) return *this;
    if (count_ == 0) return more;
    if (buffer_ == more.buffer_ && first_ + count_ == more.first_)
        return Keys(space_, buffer_, first_, count_ + more.count_, parent());
    if (Digest* behind = buffer_->extend(first_ + count_, more.count_)) {
        std::copy_n(more.first_, more.count_, behind);
        return Keys(space_, buffer_, first_, count_ + more.count_, parent());
    }
    Room room = new_room(count_ + more.count_);
    std::copy_n(first_, count_, room.digests);
    std::copy_n(more.first_, more.count_, room.digests + count_);
    return Keys(space_, std::move(room.buffer), room.digests, count_ + more.count_, parent());
}

Keys::Room Keys::room_behind(std::size_t count) const {
    if (Digest* behind = buffer_->extend(first_ + count_, count)) return {buffer_, behind};
    return new_room(count);
}

bool Keys::operator==(const Keys& other) const noexcept {
    return space().digest == other.space().digest && std::ranges::equal(digests(), other.digests());
}

Keys::Room new_room(std::size_t count) {
    auto buffer = std::make_shared<KeyBuffer>(with_slack(count));
    Digest* digests = buffer->extend(buffer->begin(), count);
    return {std::move(buffer), digests};
}

std::shared_ptr<const KeySpace> read_space(nb::handle space) {
    const nb::object digest = nb::getattr(space, "digest", nb::none());
    if (!PyBytes_Check(digest.ptr())) refuse("space", "a Namespace", space);
    return std::make_shared<const KeySpace>(KeySpace{nb::borrow(space), digest_from("the namespace's digest", digest),
                                                     digest_from("the salt's digest", space.attr("salt_digest")),
                                                     nb::cast<std::uint32_t>(space.attr("shards")),
                                                     nb::cast<bool>(space.attr("chained"))});
}

const Keys& keys_of(const char* what, nb::handle object) {
    if (!nb::isinstance<Keys>(object) || !nb::inst_ready(object)) refuse(what, "Keys", object);
    return *nb::inst_ptr<Keys>(object);
}

nb::object digest_as_bytes(const Digest& digest) {
    return owned(PyBytes_FromStringAndSize(reinterpret_cast<const char*>(&digest), kDigestBytes));
}

void bind_pool_keys(nb::module_& module) {
    PyType_Slot slots[] = {
        {Py_sq_length, reinterpret_cast<void*>(&length)},       {Py_sq_item, reinterpret_cast<void*>(&item)},
        {Py_sq_contains, reinterpret_cast<void*>(&contains)},   {Py_mp_length, reinterpret_cast<void*>(&length)},
        {Py_mp_subscript, reinterpret_cast<void*>(&subscript)}, {Py_nb_add, reinterpret_cast<void*>(&concatenate)},
        {Py_tp_richcompare, reinterpret_cast<void*>(&compare)}, {Py_tp_hash, reinterpret_cast<void*>(&hash)},
        {Py_tp_repr, reinterpret_cast<void*>(&represent)},      {Py_bf_getbuffer, reinterpret_cast<void*>(&get_buffer)},
        {Py_tp_traverse, reinterpret_cast<void*>(&traverse)},   {0, nullptr}};
    nb::class_<Keys>(module, "Keys", nb::type_slots(slots), nb::is_final(),
                     R"(The keys of a run of chunks: 32 bytes each, side by side, and the namespace that they are of.

Made by `chunk_keys` and `keys_from_hashes`, or from bytes that were made elsewhere: `Keys(space, digests, parent=None)`.
A slice shares its bytes with what it was cut from and knows the key before it. `keys + more`, for more that was made
with `after=keys`, copies nothing where it lies behind keys already. A memoryview of them is read-only.

>>> space = Namespace(model="m", dtype="bfloat16", layout="pages")
>>> keys = Keys(space, bytes(range(96)))
>>> len(keys), keys[1:].parent == keys[0], keys[:2] + keys[2:] == keys
(3, True, True)
)")
        .def(
            "__init__",
            [](Keys* self, nb::handle space, nb::handle digests, nb::handle parent) {
                new (self) Keys(make_keys(space, digests, parent));
            },
            "space"_a.none(), "digests"_a.none(), "parent"_a = nb::none(),
            nb::sig("def __init__(self, space: Namespace, digests: bytes, parent: bytes | None = None) -> None"))
        .def_prop_ro(
            "space", [](const Keys& keys) { return keys.space().object; }, "The namespace.")
        .def_prop_ro("parent", &parent_of, "The key before the first one; None if that one begins its chain.")
        .def_prop_ro("bytes", &as_bytes, "All of them, one after the other.")
        .def("__reduce__", [](nb::handle self) {
            const Keys& keys = keys_of("self", self);
            return nb::make_tuple(self.type(), nb::make_tuple(keys.space().object, as_bytes(keys), parent_of(keys)));
        });
}

}  // namespace ringcast::bindings
