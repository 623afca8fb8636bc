"""Each check of the doctor, on machines that are as they should be and on those that are not."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringcast import _core
from ringcast.errors import CapacityError, SystemCallError
from ringcast.instruments import doctor
from ringcast.instruments.doctor import MIB, Check, examine
from tests.support import segments

Found = Callable[[], Iterator[Check]]


def only(checks: Iterator[Check]) -> Check:
    (check,) = checks
    return check


def test_every_check_has_a_result_and_bad_ones_have_a_remedy() -> None:
    checks = list(examine())
    subjects = {check.subject for check in checks}
    assert subjects == {
        "versions", "shared memory", "kernel", "queue", "limits", "memory", "CPUs", "wake-up", "log-out", "leftovers",
        "other machines", "links",
    }  # fmt: skip
    for check in checks:
        assert check.found
        assert bool(check.remedy) == (check.status != "ok"), check


def test_the_doctor_leaves_nothing_behind() -> None:
    before, files = segments(), set(os.listdir("/proc/self/fd"))
    list(examine())
    assert segments() == before
    assert set(os.listdir("/proc/self/fd")) == files


def test_a_check_that_cannot_be_made_is_a_warning_and_the_others_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dry_run: bool) -> None:
        raise SystemCallError("no more files")

    monkeypatch.setattr(doctor, "sweep", refuse)
    checks = {check.subject: check for check in examine()}
    assert checks["leftovers"].status == "warning"
    assert "no more files" in checks["leftovers"].found
    assert len(checks) == 12


def mounts(tmp_path: Path, *types: str) -> Path:
    """A mountinfo in which file systems of these types lie on `tmp_path`, the last one on top."""
    file = tmp_path / "mountinfo"
    file.write_text("".join(f"36 35 0:32 / {tmp_path} rw,relatime shared:1 - {one} none rw\n" for one in types))
    return file


def statvfs(monkeypatch: pytest.MonkeyPatch, **changed: int) -> None:
    """os.statvfs says that there is 1 GiB, all free, but for what is `changed`."""
    fields = {"f_blocks": 1 << 18, "f_bavail": 1 << 18, "f_files": 1000, "f_favail": 900, "f_flag": 0, **changed}
    result = os.statvfs_result(
        (4096, 4096, fields["f_blocks"], fields["f_bavail"], fields["f_bavail"], fields["f_files"],
         fields["f_favail"], fields["f_favail"], fields["f_flag"], 255)
    )  # fmt: skip
    monkeypatch.setattr(os, "statvfs", lambda place: result)


@pytest.mark.parametrize(
    ("changed", "status", "part"),
    [
        ({}, "ok", "has 1,024 MiB, 1,024 MiB of them free"),
        ({"f_blocks": 0}, "ok", "no size limit"),
        ({"f_blocks": 1 << 14}, "warning", "has 64 MiB"),
        ({"f_bavail": 256}, "problem", "1.0 MiB of them free: there is no room for a queue"),
        ({"f_favail": 0}, "problem", "no inode left"),
        ({"f_flag": os.ST_RDONLY}, "problem", "not writable"),
    ],
)
def test_the_size_of_shared_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: dict[str, int], status: str, part: str
) -> None:
    statvfs(monkeypatch, **changed)
    check = only(doctor.shared_memory(tmp_path, mounts(tmp_path, "ext4", "tmpfs")))
    assert (check.status, part in check.found) == (status, True), check


def test_shared_memory_that_is_not_there_or_on_a_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    statvfs(monkeypatch)
    assert only(doctor.shared_memory(tmp_path / "none", mounts(tmp_path))).status == "problem"
    for types, part in ((("tmpfs", "ext4"), "is a ext4"), ((), "is no mount of its own")):
        first, second = doctor.shared_memory(tmp_path, mounts(tmp_path, *types))
        assert (first.status, second.status) == ("warning", "ok")
        assert part in first.found


def test_features_are_really_tried() -> None:
    checks = list(doctor.features())
    assert [check.status for check in checks] == ["ok"] * 4
    names = [name for name, _, _ in _core.probe_features("ringcast_probe")]
    assert [check.found.partition(": ")[0] for check in checks] == names


def test_a_missing_feature_is_a_problem_only_if_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = [("locks", True, "not implemented"), ("many words", False, "not implemented")]
    monkeypatch.setattr(_core, "probe_features", lambda name: probes)
    first, second = doctor.features()
    assert (first.status, first.found) == ("problem", "locks: not implemented")
    assert second.status == "ok"
    assert "polled" in second.found


def test_a_queue_that_cannot_be_made_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise CapacityError("needed 3 MiB")

    monkeypatch.setattr(doctor, "create", refuse)
    check = only(doctor.queue())
    assert check.status == "problem"
    assert "needed 3 MiB" in check.found


@pytest.mark.parametrize(
    ("limit", "value", "status", "part"),
    [
        (resource.RLIMIT_NOFILE, 64, "warning", "64 open files"),
        (resource.RLIMIT_FSIZE, 100 * MIB, "problem", "file size is limited to 100 MiB"),
        (resource.RLIMIT_AS, 2048 * MIB, "warning", "address space is limited to 2,048 MiB"),
    ],
)
def test_limits_of_the_process(monkeypatch: pytest.MonkeyPatch, limit: int, value: int, status: str, part: str) -> None:
    def given(kind: int) -> tuple[int, int]:
        return (value, value) if kind == limit else (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

    monkeypatch.setattr(resource, "getrlimit", given)
    check = only(doctor.limits())
    assert (check.status, part in check.found) == (status, True), check
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert only(doctor.limits()).found == "any number of open files for each process"


@pytest.mark.parametrize(("headroom", "status"), [(None, "ok"), (100 * MIB, "warning"), (1000 * MIB, "ok")])
def test_the_control_group_s_memory(monkeypatch: pytest.MonkeyPatch, headroom: int | None, status: str) -> None:
    monkeypatch.setattr(doctor, "memory_headroom", lambda: headroom)
    assert only(doctor.memory()).status == status


@pytest.mark.parametrize(
    ("allowed", "quota", "status", "part"),
    [
        (4, 1 << 30, "ok", "may use 4"),
        (4, 2, "ok", "may use 4 by affinity, 2 by quota"),
        (4, 1, "warning", "4 by affinity, 1 by quota: all ends take turns on it"),
        (1, 1 << 30, "warning", "1: all ends take turns on it"),
    ],
)
def test_cpus(monkeypatch: pytest.MonkeyPatch, allowed: int, quota: int, status: str, part: str) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)))
    monkeypatch.setattr(_core, "cpu_quota", lambda: quota)
    check = only(doctor.cpus())
    assert (check.status, part in check.found) == (status, True), check


class Machine:
    """A root directory with systemd's files in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("run/systemd/system/x", "")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def found(self, user: int = 4321) -> Check:
        return only(doctor.log_out(self.root, user))


def test_systemd_removes_an_ordinary_user_s_segments_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    assert only(doctor.log_out(tmp_path, 4321)).status == "ok"  # there is no systemd
    machine = Machine(tmp_path)
    assert machine.found().status == "warning"
    assert "loginctl enable-linger" in machine.found().remedy
    assert machine.found(user=0).status == "ok"
    assert machine.found(user=999).status == "ok"
    machine.write("etc/systemd/logind.conf", "[Login]\n#RemoveIPC=no\n")
    assert machine.found().status == "warning"
    machine.write("etc/systemd/logind.conf", "[Login]\nRemoveIPC=no\n")
    assert machine.found().status == "ok"
    machine.write("usr/lib/systemd/logind.conf.d/50-x.conf", "[Login]\nRemoveIPC = yes\n")
    assert machine.found().status == "warning"
    machine.write("etc/systemd/logind.conf.d/50-x.conf", "[Login]\n")  # stands in for the vendor's file of its name
    assert machine.found().status == "ok"
    machine.write("etc/systemd/logind.conf.d/60-y.conf", "[Login]\nRemoveIPC=true\n")
    assert machine.found().status == "warning"
    machine.write("var/lib/systemd/linger/4321", "")
    assert "lingers" in machine.found().found
