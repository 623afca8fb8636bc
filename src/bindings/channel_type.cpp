// The Python types Cipher and Channel, by which links talk to each other; see link/channel.hpp.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "aead.hpp"
#include "arguments.hpp"
#include "link/channel.hpp"
#include "modules.hpp"
#include "plain_buffer.hpp"
#include "py_errors.hpp"
#include "unlocked.hpp"
#include "waiting.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ringcast::bindings {

namespace {

using link::Channel;
using link::Cipher;
using link::kTagBytes;
using link::Piece;

nb::bytes bytes_of(Piece piece) { return nb::bytes(piece.data(), piece.size()); }

By parse_by(const std::string& by) {
    if (by == "openssl") return By::openssl;
    if (by == "cryptography") return By::cryptography;
    if (by == "size") return By::size;
    if (by.empty()) return By::whichever;
    raise("ArgumentError", "there is no cipher by " + by);
}

std::shared_ptr<Cipher> make_cipher(const nb::bytes& key, std::uint64_t rekey_bytes, const std::string& by) {
    link::Key taken;
    if (key.size() != taken.size())
        raise("ArgumentError",
              "a key has " + std::to_string(taken.size()) + " bytes, not " + std::to_string(key.size()));
    std::memcpy(taken.data(), key.c_str(), taken.size());
    return std::make_shared<Cipher>(make_aead(parse_by(by)), taken, rekey_bytes);
}

nb::object seal(Cipher& cipher, std::uint8_t kind, nb::handle plain) {
    const PlainBuffer from(plain);
    const nb::object sealed =
        owned(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(from.size() + kTagBytes)));
    auto* to = reinterpret_cast<std::byte*>(PyBytes_AS_STRING(sealed.ptr()));
    const Piece piece = from.bytes();
    cipher.seal(kind, {&piece, 1}, to);
    return sealed;
}

// None: it was not made with the same key, in this place.
nb::object open(Cipher& cipher, std::uint8_t kind, nb::handle sealed) {
    const PlainBuffer from(sealed);
    if (from.size() < kTagBytes) return nb::none();
    const std::size_t length = from.size() - kTagBytes;
    const nb::object plain = owned(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(length)));
    auto* to = reinterpret_cast<std::byte*>(PyBytes_AS_STRING(plain.ptr()));
    return cipher.open(kind, from.bytes(), to) ? plain : nb::object(nb::none());
}

nb::bytes sign(Cipher& cipher, std::uint8_t kind, nb::handle clear) {
    const PlainBuffer from(clear);
    const Piece piece = from.bytes();
    std::byte tag[kTagBytes];
    cipher.sign(kind, {&piece, 1}, tag);
    return bytes_of(tag);
}

bool verify(Cipher& cipher, std::uint8_t kind, nb::handle clear, nb::handle tag) {
    const PlainBuffer from(clear), proof(tag);
    return proof.size() == kTagBytes && cipher.verify(kind, from.bytes(), proof.data());
}

void send(Channel& channel, std::int64_t kind, nb::handle payload) {
    const PlainBuffer from(payload);
    if (from.size() > link::kMaxRecord || kind < 1 || kind > 255)
        raise("ArgumentError", "a record has a kind from 1 to 255 and up to " + std::to_string(link::kMaxRecord) +
                                   " bytes, not kind " + std::to_string(kind) + " and " + std::to_string(from.size()));
    const Piece piece = from.bytes();
    const Unlocked unlocked;
    channel.send(static_cast<std::uint8_t>(kind), {&piece, 1});
}

void prove(Channel& channel) {
    const Unlocked unlocked;
    channel.prove();
}

bool wait(Channel& channel, nb::handle timeout) {
    const std::int64_t patience = parse_timeout(timeout.ptr());
    const std::int64_t now = platform::monotonic_ns();
    const Unlocked unlocked;
    return channel.await_record(patience >= kForever - now ? kForever : now + patience);
}

nb::tuple next(Channel& channel) {
    const Channel::Record record = [&] {
        const Unlocked unlocked;
        return channel.next();
    }();
    return nb::make_tuple(record.kind, record.length);
}

void check_unread(const Channel& channel) {
    if (!channel.has_unread()) raise("ArgumentError", "a record is read once, after next()");
}

nb::bytes read(Channel& channel) {
    check_unread(channel);
    const Piece payload = [&] {
        const Unlocked unlocked;
        return channel.read();
    }();
    return bytes_of(payload);
}

void read_into(Channel& channel, nb::handle target) {
    check_unread(channel);
    const PlainBuffer to(target, PyBUF_WRITABLE);
    if (to.size() != channel.unread_bytes())
        raise("ArgumentError", "the memory has " + std::to_string(to.size()) + " bytes, the record " +
                                   std::to_string(channel.unread_bytes()));
    const Unlocked unlocked;
    channel.read_into(to.data());
}

}  // namespace

void bind_channel(nb::module_& module) {
    nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
        try {
            std::rethrow_exception(pointer);
        } catch (const link::ChannelEnded& error) {
            const nb::object type = nb::module_::import_("ringcast.net.link._channel")
                                        .attr(error.forged() ? "ChannelForgedError" : "ChannelClosedError");
            PyErr_SetString(type.ptr(), error.what());
        }
    });
    module.attr("LINK_MAX_RECORD") = link::kMaxRecord;
    nb::class_<Cipher>(module, "Cipher", "One direction of a connection between links, once the handshake is over.")
        .def(nb::new_(&make_cipher), "key"_a, "rekey_bytes"_a = link::kRekeyBytes, "by"_a = "")
        .def("seal", &seal, "kind"_a, "plain"_a)
        .def("open", &open, "kind"_a, "sealed"_a)
        .def("sign", &sign, "kind"_a, "clear"_a)
        .def("verify", &verify, "kind"_a, "clear"_a, "tag"_a)
        .def_prop_ro("key", [](const Cipher& cipher) { return bytes_of(cipher.key()); });
    nb::class_<Channel>(module, "Channel", "One connection between two links: records, each of them proven.")
        .def(nb::init<int, std::shared_ptr<Cipher>, std::shared_ptr<Cipher>, bool, std::string>(), "descriptor"_a,
             "sending"_a, "receiving"_a, "encrypt"_a, "peer"_a)
        .def("send", &send, "kind"_a, "payload"_a)
        .def("prove", &prove)
        .def("wait", &wait, "timeout"_a)
        .def("next", &next)
        .def("read", &read)
        .def("read_into", &read_into, "target"_a)
        .def("limit_sending", &Channel::limit_sending, "seconds"_a)
        .def("close", &Channel::close)
        .def("fileno", &Channel::descriptor)
        .def_prop_ro("closed", &Channel::closed)
        .def_prop_ro("peer", &Channel::peer)
        .def_prop_ro("sent_bytes", &Channel::sent_bytes)
        .def_prop_ro("received_bytes", &Channel::received_bytes)
        .def_prop_ro("receives", &Channel::receives)
        .def_prop_ro("placed_bytes", &Channel::placed_bytes)
        .def_prop_ro("heard", [](const Channel& channel) { return static_cast<double>(channel.heard_ns()) / 1e9; });
}

}  // namespace ringcast::bindings
