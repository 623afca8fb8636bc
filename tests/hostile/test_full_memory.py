"""Files that look like segments in a full /dev/shm: looking at them must neither ask for memory nor end in SIGBUS."""

from __future__ import annotations

from tests.processes.test_memory import in_small_memory, needs_namespace


@needs_namespace
def test_a_sparse_file_is_refused_though_touching_its_holes_would_be_fatal() -> None:
    in_small_memory("""
from ringcast.errors import SegmentError, SegmentExistsError, SegmentMismatchError
from ringcast.instruments import list_queues
with MessageQueue(1, name="whole") as queue:
    with open("/dev/shm/" + queue.segment, "rb") as file:
        header = file.read(4096)
        size = os.fstat(file.fileno()).st_size
    suffix = queue.segment.removeprefix("ringcast_whole")
begun = header + bytes(264) + (1).to_bytes(4, sys.byteorder) + bytes(4096 - 268)  # initialised, but its slots are holes
for name, content in (("empty", b""), ("header", header), ("begun", begun)):
    path = f"/dev/shm/ringcast_{name}{suffix}"
    with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(content)
        file.truncate(size)
rest = os.open("/dev/shm/rest", os.O_CREAT | os.O_WRONLY)
try:
    while True:
        os.write(rest, bytes(4096))
except OSError:
    pass
listed = list_queues().unreadable
assert len(listed) == 3 and all("it is sparse" in info["error"] for info in listed), listed
for name in ("empty", "header", "begun"):
    try:
        MessageQueue.attach(name, timeout=0)
    except SegmentMismatchError as error:
        assert "it is sparse" in str(error), error
    else:
        raise AssertionError(name)
for name in ("empty", "header", "begun"):  # a sweep removes those that have the magic, and nobody's lock
    try:
        MessageQueue(1, name=name)
    except SegmentError:
        pass
os.unlink("/dev/shm/rest")
print("done")
""")
