// The pool's policies, and what is simulated with them, for benchmarks and tests.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "modules.hpp"
#include "pool/hit_rate_curve.hpp"
#include "pool/policy.hpp"
#include "pool/simulator.hpp"
#include "pool_keys.hpp"
#include "py_errors.hpp"

namespace ringcast::bindings {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

constexpr std::int64_t kMostEntries = std::int64_t{1} << 28;

pool::PolicyKind kind_of(const std::string& name) {
    if (const auto kind = pool::policy_named(name)) return *kind;
    raise("ArgumentError", "policy is '" + name + "'; it must be one of 'arc', 'lru', 's3fifo'");
}

std::uint32_t entries_of(const char* what, nb::handle value) {
    return static_cast<std::uint32_t>(parse_int(what, value.ptr(), 1, kMostEntries));
}

// A policy whose entries are checked: its callers in the core need no checks.
class CheckedPolicy {
public:
    CheckedPolicy(const std::string& kind, nb::handle entries, nb::handle tenants)
        : n_entries_(entries_of("entries", entries)),
          n_tenants_(entries_of("tenants", tenants)),
          policy_(pool::make_policy(kind_of(kind), n_entries_, n_tenants_)),
          states_(n_entries_),
          parents_(n_entries_, pool::kNoEntry),
          children_(n_entries_) {}

    void admit(std::uint32_t entry, nb::bytes digest, nb::object parent, std::uint32_t tenant) {
        expect(entry, absent);
        const std::uint32_t of = parent.is_none() ? pool::kNoEntry : nb::cast<std::uint32_t>(parent);
        if (of != pool::kNoEntry) expect(of, here);
        if (tenant >= n_tenants_ || digest.size() != pool::kDigestBytes)
            raise("ArgumentError", "no such tenant, or no digest of 32 bytes");
        pool::Digest named;
        std::memcpy(&named, digest.c_str(), sizeof named);
        policy_->admit(entry, named, of, tenant);
        states_[entry] = here;
        parents_[entry] = of;
        if (of != pool::kNoEntry) ++children_[of];
    }
    void touch(std::uint32_t entry) {
        expect(entry, here);
        policy_->touch(entry);
    }
    void forget(std::uint32_t entry, bool evicted) {
        if (entry >= n_entries_ || states_[entry] == absent || children_[entry] != 0)
            raise("ArgumentError", "entry " + std::to_string(entry) + " is not there, or has children");
        policy_->forget(entry, evicted ? pool::Gone::evicted : pool::Gone::removed);
        if (states_[entry] == here) unlink(entry);
        states_[entry] = absent;
    }
    void keep(std::uint32_t entry) {
        expect(entry, victim);
        policy_->keep(entry);
        states_[entry] = here;
        if (parents_[entry] != pool::kNoEntry) ++children_[parents_[entry]];
    }
    std::vector<std::uint32_t> victims(std::size_t count, nb::object held, nb::object tenant) {
        std::vector<std::uint32_t> found(std::min<std::size_t>(count, n_entries_));
        const std::uint32_t of = tenant.is_none() ? pool::kAnyTenant : nb::cast<std::uint32_t>(tenant);
        if (of != pool::kAnyTenant && of >= n_tenants_) raise("ArgumentError", "no such tenant");
        if (held.is_none()) held = nb::list();
        const auto may = [&](std::uint32_t entry) {
            return PySequence_Contains(held.ptr(), nb::int_(entry).ptr()) == 0;
        };
        found.resize(policy_->victims(found, may, of));
        for (const std::uint32_t entry : found) {
            unlink(entry);
            states_[entry] = victim;
        }
        return found;
    }

private:
    enum State : std::uint8_t { absent, here, victim };

    void expect(std::uint32_t entry, State state) const {
        if (entry < n_entries_ && states_[entry] == state) return;
        raise("ArgumentError", "entry " + std::to_string(entry) + " is not in the state that this call is for");
    }
    void unlink(std::uint32_t entry) {
        if (parents_[entry] != pool::kNoEntry) --children_[parents_[entry]];
    }

    std::uint32_t n_entries_;
    std::uint32_t n_tenants_;
    std::unique_ptr<pool::Policy> policy_;
    std::vector<State> states_;
    std::vector<std::uint32_t> parents_;
    std::vector<std::uint32_t> children_;
};

}  // namespace

void bind_pool_policies(nb::module_& module) {
    nb::class_<CheckedPolicy>(module, "Policy", nb::is_final(), "Which entries of a pool go first.")
        .def(nb::init<const std::string&, nb::handle, nb::handle>(), "kind"_a, "entries"_a, "tenants"_a = 1)
        .def("admit", &CheckedPolicy::admit, "entry"_a, "digest"_a, "parent"_a = nb::none(), "tenant"_a = 0)
        .def("touch", &CheckedPolicy::touch, "entry"_a)
        .def("forget", &CheckedPolicy::forget, "entry"_a, "evicted"_a)
        .def("keep", &CheckedPolicy::keep, "entry"_a)
        .def("victims", &CheckedPolicy::victims, "count"_a, "held"_a = nb::none(), "tenant"_a = nb::none());

    nb::class_<pool::CacheSimulator>(module, "CacheSimulator", nb::is_final(), "A pool without bytes.")
        .def(
            "__init__",
            [](pool::CacheSimulator* self, const std::string& policy, nb::handle capacity, bool leaf_first) {
                new (self) pool::CacheSimulator(kind_of(policy), entries_of("capacity", capacity), leaf_first);
            },
            "policy"_a, "capacity"_a, "leaf_first"_a = true)
        .def(
            "access", [](pool::CacheSimulator& self, nb::handle keys) { return self.access(digests_of(keys)); },
            "keys"_a)
        .def("__len__", &pool::CacheSimulator::size);

    nb::class_<pool::HitRateCurve>(module, "HitRateCurve", nb::is_final(),
                                   "What each policy would hit with more and less memory, from a sample.")
        .def(
            "__init__",
            [](pool::HitRateCurve* self, nb::handle capacity, std::uint64_t window) {
                new (self) pool::HitRateCurve(entries_of("capacity", capacity), window);
            },
            "capacity"_a, "window"_a = 0)
        .def(
            "access", [](pool::HitRateCurve& self, nb::handle keys) { self.access(digests_of(keys)); }, "keys"_a)
        .def_prop_ro("accesses", &pool::HitRateCurve::accesses)
        .def("hit_rates", [](const pool::HitRateCurve& self) {
            nb::dict rates;
            for (std::size_t i = 0; i < pool::HitRateCurve::kPolicies.size(); ++i) {
                nb::dict row;
                for (std::size_t j = 0; j < pool::HitRateCurve::kFactors.size(); ++j)
                    row[nb::float_(pool::HitRateCurve::kFactors[j])] = self.hit_rate(i, j);
                rates[pool::name_of(pool::HitRateCurve::kPolicies[i])] = row;
            }
            return rates;
        });
}

}  // namespace ringcast::bindings
