// The Python type PoolTierJob: what a pool's server wants of a tier that is not native, for the Python thread that does it.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "modules.hpp"
#include "pool/server.hpp"
#include "pool_keys.hpp"
#include "pool_memory.hpp"
#include "py_errors.hpp"
#include "unlocked.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace ringcast::bindings {

namespace {

using pool::TierJob;
using pool::TierOutcome;
using pool::TierTask;
using pool::TierWork;

// A job until it is finished and its memory is seen by nobody: only then the server has it back. One that is just dropped
// has failed.
class Taken {
public:
    Taken(std::shared_ptr<TierWork> work, std::unique_ptr<TierJob> its_job)
        : job(std::move(its_job)), work_(std::move(work)) {}
    ~Taken() {
        if (job->task == TierTask::load && job->outcome == TierOutcome::done && !TierWork::agrees(*job))
            job->outcome = TierOutcome::corrupt;
        work_->finish(std::move(job));
    }
    Taken(const Taken&) = delete;
    Taken& operator=(const Taken&) = delete;

    std::unique_ptr<TierJob> job;

private:
    std::shared_ptr<TierWork> work_;
};

struct PyTierJob {
    std::shared_ptr<Taken> taken;  // null: finished
    const TierJob& job() const {
        if (taken == nullptr) raise("PoolError", "this job was finished before");
        return *taken->job;
    }
};

// Bytes of a pool's memory, which `owner` keeps.
struct TierBuffer {
    PyObject_HEAD std::shared_ptr<const void> owner;
    std::span<std::byte> bytes;
    bool writable;
};
PyTypeObject* buffer_type = nullptr;  // set at import, never changed

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
    const auto& its = *reinterpret_cast<const TierBuffer*>(self);
    return PyBuffer_FillInfo(view, self, its.bytes.data(), static_cast<Py_ssize_t>(its.bytes.size()),
                             its.writable ? 0 : 1, flags);
}
void drop_buffer(PyObject* self) {
    PyTypeObject* type = Py_TYPE(self);
    std::destroy_at(&reinterpret_cast<TierBuffer*>(self)->owner);
    type->tp_free(self);
    Py_DECREF(type);
}
PyType_Slot buffer_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(&get_buffer)},
                              {Py_tp_dealloc, reinterpret_cast<void*>(&drop_buffer)},
                              {Py_tp_doc, const_cast<char*>("A pool's memory, for a tier.")},
                              {0, nullptr}};
PyType_Spec buffer_spec = {"ringcast._core.PoolTierBuffer", sizeof(TierBuffer), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, buffer_slots};

nb::object view_of(std::shared_ptr<const void> owner, std::span<std::byte> bytes, bool writable) {
    PyObject* const made = buffer_type->tp_alloc(buffer_type, 0);
    if (made == nullptr) throw nb::python_error();
    auto& its = *reinterpret_cast<TierBuffer*>(made);
    std::construct_at(&its.owner, std::move(owner));
    its.bytes = bytes;
    its.writable = writable;
    const nb::object buffer = nb::steal(made);
    PyObject* const view = PyMemoryView_FromObject(buffer.ptr());
    if (view == nullptr) throw nb::python_error();
    return nb::steal(view);
}

// A chunk that is to be stored, or filled.
nb::object memory_of(const PyTierJob& self) {
    const TierJob& job = self.job();
    return view_of(self.taken, job.bytes, job.task == TierTask::load);
}

// All chunks of a pool. It stays mapped, and the pool this server's, until the view is released.
nb::object served_memory(const pool::Server& server) {
    const auto memory = memory_served_by(server);
    return view_of(memory, {memory->served_data(), memory->header().capacity}, true);
}

const char* task_of(const PyTierJob& self) {
    switch (self.job().task) {
        case TierTask::store:
            return "store";
        case TierTask::load:
            return "load";
        case TierTask::remove:
            return "remove";
        case TierTask::find:
            return "find";
        case TierTask::clear:
            return "clear";
        case TierTask::sync:  // of native ones only
            return "sync";
    }
    return "";
}

TierOutcome outcome_named(const std::string& name) {
    if (name == "done") return TierOutcome::done;
    if (name == "absent") return TierOutcome::absent;
    if (name == "refused") return TierOutcome::refused;
    return name == "corrupt" ? TierOutcome::corrupt : TierOutcome::failed;
}

nb::object take(pool::Server& server, std::uint32_t tier) {
    std::shared_ptr<TierWork> work = server.tiers().work_of(tier);
    std::unique_ptr<TierJob> job;
    {
        const Unlocked unlocked;
        job = work->take();
    }
    if (job == nullptr) return nb::none();
    return nb::cast(PyTierJob{std::make_shared<Taken>(std::move(work), std::move(job))});
}

}  // namespace

void bind_pool_tier_jobs(nb::module_& module) {
    nb::class_<PyTierJob>(module, "PoolTierJob", "What a pool's server wants of a tier.")
        .def_prop_ro("task", &task_of)
        .def_prop_ro("key", [](const PyTierJob& self) { return digest_as_bytes(self.job().key); })
        .def_prop_ro("keys",
                     [](const PyTierJob& self) {
                         nb::list keys;
                         for (const pool::Digest& key : self.job().keys) keys.append(digest_as_bytes(key));
                         return keys;
                     })
        .def_prop_ro("memory", &memory_of)
        .def(
            "finish",
            [](PyTierJob& self, const std::string& outcome, std::vector<bool> found, const std::string& error) {
                static_cast<void>(self.job());
                TierJob& job = *self.taken->job;
                job.outcome = outcome_named(outcome);
                job.found = std::move(found);
                job.found.resize(job.keys.size());
                job.error = error;
                self.taken.reset();
            },
            "outcome"_a, "found"_a, "error"_a);
    const nb::object buffer = nb::steal(PyType_FromSpec(&buffer_spec));
    module.attr("PoolTierBuffer") = buffer;
    buffer_type = reinterpret_cast<PyTypeObject*>(buffer.inc_ref().ptr());
    module.def("take_tier_job", &take, "server"_a, "tier"_a);
    module.def("served_memory", &served_memory, "server"_a);
}

}  // namespace ringcast::bindings
