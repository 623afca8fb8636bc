"""The command line, run as its users run it: real processes, real pipes, real signals."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ringcast import MessageQueue
from ringcast._names import segment_name
from ringcast.cli.app import COMMANDS
from ringcast.cli.framing import FrameSplitter, LineSplitter, frame
from ringcast.instruments import list_queues
from tests.support import DEADLINE_S, SHM, eventually, run_python, started_pids, unique_name

Ringcast = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def name() -> str:
    return unique_name("cli")


@pytest.fixture
def ringcast() -> Iterator[Ringcast]:
    """Starts `ringcast` with the given arguments, its three streams pipes unless told otherwise."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        begun.append(subprocess.Popen([sys.executable, "-m", "ringcast", *arguments], **(pipes | streams)))
        started_pids.add(begun[-1].pid)
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def until_listed(name: str) -> None:
    eventually(lambda: any(info["name"] == name for info in list_queues().queues), f"a queue {name}")


def until_gone(name: str) -> None:
    eventually(lambda: not (SHM / segment_name(name)).exists(), f"{name} gone from {SHM}")


def outcome(process: subprocess.Popen[bytes], data: bytes | None = None) -> tuple[int, bytes, str]:
    """Exit code, output and error output, once the process has ended."""
    out, err = process.communicate(data, timeout=DEADLINE_S)
    return process.returncode, out or b"", err.decode()


def random_lines(seed: int, count: int, longest: int) -> bytes:
    source = random.Random(seed)
    return b"".join(source.randbytes(source.randrange(longest)).replace(b"\n", b"") + b"\n" for _ in range(count))


STREAMS = {
    "nothing": b"",
    "one line": b"hello\n",
    "a last line without newline": b"a\nb",
    "empty lines": b"\n\n\nx\n\n",
    "carriage returns and other line ends": b"a\rb\r\nc\x0bd\x1ce\xe2\x80\xa8f\n\r",
    "many lines": random_lines(1, 20_000, 80),
    "lines longer than a chunk": random_lines(2, 40, 30_000),
    "binary without newlines": random.Random(3).randbytes(5_000_000).replace(b"\n", b"\0"),
    "binary": random.Random(4).randbytes(3_000_000),
}


@pytest.mark.parametrize("size", ["1MiB", "4096", "1"])
@pytest.mark.parametrize("stream", STREAMS)
def test_two_subs_write_what_pub_has_read(
    ringcast: Ringcast, name: str, tmp_path: Path, stream: str, size: str
) -> None:
    data = STREAMS[stream][: 20_000 if size == "1" else None]
    source = tmp_path / "source"
    source.write_bytes(data)
    copies = [tmp_path / "copy0", tmp_path / "copy1"]
    with source.open("rb") as given, copies[0].open("wb") as copy0, copies[1].open("wb") as copy1:
        subs = [ringcast("sub", name, stdout=copy) for copy in (copy0, copy1)]
        pub = ringcast("pub", name, "--readers", "2", "--max-chunk-bytes", size, stdin=given)
        assert outcome(pub) == (0, b"", "")
        assert [sub.wait(DEADLINE_S) for sub in subs] == [0, 0]
    for copy in copies:
        assert copy.read_bytes() == data
    until_gone(name)


def test_a_python_reader_gets_one_message_a_line(ringcast: Ringcast, name: str) -> None:
    data = b"first\n\n" + b"long" * 100_000 + b"\nlast"
    pub = ringcast("pub", name)
    assert pub.stdin is not None
    with MessageQueue.attach(name, timeout=DEADLINE_S) as reader:
        pub.stdin.write(data)
        pub.stdin.close()
        assert b"".join(got := list(reader)) == data
    assert got == [b"first\n", b"\n", b"long" * 100_000 + b"\n", b"last"]
    assert pub.wait(DEADLINE_S) == 0


def test_a_line_arrives_while_the_input_stays_open(ringcast: Ringcast, name: str) -> None:
    pub, sub = ringcast("pub", name), ringcast("sub", name)
    assert pub.stdin is not None
    assert sub.stdout is not None
    for line in (b"one\n", b"two\n"):
        pub.stdin.write(line)
        pub.stdin.flush()
        assert sub.stdout.readline() == line
    assert outcome(pub, b"the rest")[0] == 0
    assert outcome(sub) == (0, b"the rest", "")


@pytest.mark.parametrize("size", ["1MiB", "70000"])
def test_frames_arrive_byte_for_byte(ringcast: Ringcast, name: str, tmp_path: Path, size: str) -> None:
    source = random.Random(5)
    data = b"".join(frame(source.randbytes(source.choice([0, 1, 3, 4, 5, 1000, 65_536]))) for _ in range(500))
    copies = [tmp_path / "copy0", tmp_path / "copy1"]
    with copies[0].open("wb") as copy0, copies[1].open("wb") as copy1:
        subs = [ringcast("sub", name, "--frames", stdout=copy) for copy in (copy0, copy1)]
        pub = ringcast("pub", name, "--frames", "--readers", "2", "--max-chunk-bytes", size)
        assert outcome(pub, data) == (0, b"", "")
        assert [sub.wait(DEADLINE_S) for sub in subs] == [0, 0]
    for copy in copies:
        assert copy.read_bytes() == data


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (struct.pack("<I", 10) + b"short", "ends inside frame 3, after 5 of its 10 bytes"),
        (b"\1\0", "ends inside the length of frame 3"),
        (struct.pack("<I", 5000) + bytes(5000), "frame 3 has 5000 bytes, more than the 4096 of --max-chunk-bytes"),
    ],
)
def test_a_bad_frame_is_an_error_and_the_frames_before_it_arrive(
    ringcast: Ringcast, name: str, bad: bytes, complaint: str
) -> None:
    sub = ringcast("sub", name)
    pub = ringcast("pub", name, "--frames", "--max-chunk-bytes", "4KiB")
    code, _, err = outcome(pub, frame(b"good") + frame(b"") + bad)
    assert code == 1
    assert complaint in err
    assert err.count("\n") == 1
    assert outcome(sub)[:2] == (0, b"good")
    until_gone(name)


def test_objects_of_a_python_writer_are_shown_as_their_repr(ringcast: Ringcast, name: str) -> None:
    with MessageQueue(1, name=name) as writer:
        sub = ringcast("sub", name)
        writer.wait_until_ready(DEADLINE_S)
        writer.enqueue_many([{"a": [1, None]}, b"raw", "text\n\udc80", bytearray(b"x")], DEADLINE_S)
    assert outcome(sub) == (0, b"{'a': [1, None]}\nraw'text\\n\\udc80'\nbytearray(b'x')\n", "")


def test_objects_cannot_be_framed(ringcast: Ringcast, name: str) -> None:
    with MessageQueue(1, name=name) as writer:
        sub = ringcast("sub", name, "--frames")
        writer.wait_until_ready(DEADLINE_S)
        writer.enqueue("text", DEADLINE_S)
        code, out, err = outcome(sub)
    assert (code, out) == (1, b"")
    assert "a str was published" in err


def test_count_ends_a_sub_and_not_the_queue(ringcast: Ringcast, name: str) -> None:
    first, second = ringcast("sub", name, "--count", "3"), ringcast("sub", name)
    pub = ringcast("pub", name, "--readers", "2")
    data = b"".join(b"%d\n" % number for number in range(5000))
    assert outcome(pub, data)[0] == 0
    assert outcome(first) == (0, b"0\n1\n2\n", "")
    assert outcome(second) == (0, data, "")


@pytest.mark.parametrize("more", [b"", b"more\n" * 100_000])
def test_a_sub_whose_output_nobody_reads_ends_quietly(ringcast: Ringcast, name: str, more: bytes) -> None:
    pub, sub = ringcast("pub", name), ringcast("sub", name)
    assert pub.stdin is not None
    assert sub.stdout is not None
    assert sub.stderr is not None
    pub.stdin.write(b"one\n")
    pub.stdin.flush()
    assert sub.stdout.readline() == b"one\n"
    sub.stdout.close()
    pub.stdin.write(more)
    pub.stdin.flush()
    assert sub.wait(DEADLINE_S) == 0  # while the publisher stays
    assert sub.stderr.read() == b""
    assert outcome(pub)[0] == 0


def test_a_timeout_is_124(ringcast: Ringcast, name: str) -> None:
    code, _, err = outcome(ringcast("sub", name, "--timeout", "0.05"))
    assert (code, err.count("\n")) == (124, 1)
    code, _, err = outcome(ringcast("pub", name, "--timeout", "0.05"), b"line\n")
    assert (code, err.count("\n")) == (124, 1)
    with MessageQueue(1, name=name):
        code, _, err = outcome(ringcast("sub", name, "--timeout", "0.1"))
        assert code == 124
        assert f"from the writer (pid {os.getpid()})" in err  # so it had attached
    until_gone(name)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_output_that_cannot_be_written_is_an_error_of_one_line(ringcast: Ringcast, name: str) -> None:
    with Path("/dev/full").open("wb") as full:
        sub, pub = ringcast("sub", name, stdout=full), ringcast("pub", name)
        assert outcome(pub, b"line\n")[0] == 0
        assert outcome(sub) == (1, b"", "ringcast: No space left on device\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
@pytest.mark.parametrize("arguments", ["--help", "ls --help", "--version", "secret", "ls --json", "completion bash"])
def test_whoever_writes_it_output_without_room_is_an_error_of_one_line(ringcast: Ringcast, arguments: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = outcome(ringcast(*arguments.split(), stdout=full))
    assert done == (1, b"", "ringcast: No space left on device\n")


def test_what_the_output_s_encoding_lacks_is_escaped(ringcast: Ringcast) -> None:
    code, out, err = outcome(ringcast("doctor", env={**os.environ, "PYTHONIOENCODING": "ascii"}))
    assert code in (0, 1), err
    assert rb"\xb5s" in out
    assert "Traceback" not in err


def test_a_name_in_use_is_an_error_of_one_line(ringcast: Ringcast, name: str) -> None:
    with MessageQueue(1, name=name):
        code, _, err = outcome(ringcast("pub", name), b"line\n")
    assert code == 1
    assert err.startswith("ringcast: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_pub_awaits_readers_leaves_nothing(
    ringcast: Ringcast, name: str, number: signal.Signals, code: int
) -> None:
    pub = ringcast("pub", name)
    until_listed(name)
    pub.send_signal(number)
    assert outcome(pub) == (code, b"", "")
    until_gone(name)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_both_wait_for_more_leaves_nothing(
    ringcast: Ringcast, name: str, number: signal.Signals, code: int
) -> None:
    pub = ringcast("pub", name, "--readers", "2")
    subs = [ringcast("sub", name) for _ in range(2)]
    assert pub.stdin is not None
    pub.stdin.write(b"line\n")
    pub.stdin.flush()
    for sub in subs:
        assert sub.stdout is not None
        assert sub.stdout.readline() == b"line\n"
    subs[0].send_signal(number)
    assert outcome(subs[0]) == (code, b"", "")
    pub.send_signal(number)
    assert outcome(pub) == (code, b"", "")
    assert outcome(subs[1]) == (0, b"", "")  # a publisher that is interrupted still closes its queue
    until_gone(name)


def test_a_signal_while_a_slow_reader_blocks_pub_leaves_nothing(ringcast: Ringcast, name: str) -> None:
    pub = ringcast("pub", name, "--max-chunks", "2")
    assert pub.stdin is not None
    with MessageQueue.attach(name, timeout=DEADLINE_S) as reader:
        pub.stdin.write(b"line\n" * 100)
        pub.stdin.close()
        eventually(lambda: reader.qsize() == 2, "a full queue")
        pub.send_signal(signal.SIGINT)
        assert pub.wait(DEADLINE_S) == 130
    until_gone(name)


def test_a_killed_publisher_is_an_error_of_one_line(ringcast: Ringcast, name: str) -> None:
    pub, sub = ringcast("pub", name), ringcast("sub", name)
    assert pub.stdin is not None
    assert sub.stdout is not None
    pub.stdin.write(b"line\n")
    pub.stdin.flush()
    assert sub.stdout.readline() == b"line\n"
    pub.kill()
    code, out, err = outcome(sub)
    assert (code, out) == (1, b"")
    assert err.startswith("ringcast: ")
    assert err.count("\n") == 1
    with MessageQueue(1, name=name):  # what the dead one left is in nobody's way
        pass
    until_gone(name)


def test_ls_shows_a_live_queue(ringcast: Ringcast, name: str) -> None:
    with MessageQueue(2, name=name) as writer, MessageQueue.attach(name, 1) as reader:
        writer.enqueue(b"waiting")
        code, out, err = outcome(ringcast("ls"))
        assert (code, err) == (0, "")
        (row,) = [line.split() for line in out.decode().splitlines() if line.startswith(name)]
        assert row[:6] == [name, "1", "of", "2", "1", str(os.getpid())]
        assert row[-1] == writer.segment
        (entry,) = [one for one in json.loads(outcome(ringcast("ls", "--json"))[1]) if one["name"] == name]
        assert entry["writer"]["alive"] is True
        assert (entry["n_reader"], entry["queued"], entry["messages"]) == (2, 1, 1)
        assert [(one["rank"], one["pid"]) for one in entry["readers"] if one["alive"]] == [(1, os.getpid())]
        reader.dequeue()
    assert name not in outcome(ringcast("ls", "--all"))[1].decode()


def test_ls_says_so_when_there_is_none(ringcast: Ringcast) -> None:
    assert outcome(ringcast("ls")) == (0, b"No queues here.\n", "")
    assert outcome(ringcast("ls", "--json")) == (0, b"[]\n", "")


@pytest.mark.skipif(not SHM.is_dir(), reason="segments are not files here")
def test_ls_says_what_it_cannot_read_and_goes_on(ringcast: Ringcast, name: str) -> None:
    stranger = SHM / segment_name(name)
    stranger.write_bytes(b"no queue".ljust(4096))
    try:
        assert stranger.name not in outcome(ringcast("ls", "--json"))[1].decode()
        code, out, err = outcome(ringcast("ls", "--all"))
        assert (code, err) == (0, "")
        assert any(line.startswith("unreadable: ") and stranger.name in line for line in out.decode().splitlines())
    finally:
        stranger.unlink(missing_ok=True)


@pytest.mark.parametrize("command", [(), *((one,) for one in COMMANDS)])
def test_help_has_an_example(ringcast: Ringcast, command: tuple[str, ...]) -> None:
    code, out, err = outcome(ringcast(*command, "--help"))
    assert (code, err) == (0, "")
    text = out.decode()
    assert text.startswith("Usage: ringcast")
    assert "Example" in text
    assert "--help" in text


@pytest.mark.parametrize("missing", [["click"], ["rich"], ["click", "rich"]])
def test_without_the_extra_one_line_tells_what_to_install(missing: list[str]) -> None:
    program = f"import sys; sys.modules.update(dict.fromkeys({missing})); from ringcast.cli import main"
    done = run_python(f"{program}; sys.exit(main())")
    assert (done.returncode, done.stdout) == (2, "")
    assert 'pip install "ringcast[cli]"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_secret_needs_no_command_line_library() -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['click', 'rich']))\n"
        "from ringcast.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    first, second = run_python(program, "secret"), run_python(program, "secret")
    for done in (first, second):
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(r"[\w-]{43}\n", done.stdout)
    assert first.stdout != second.stdout
    assert run_python(program, "secret", "--help").returncode == 2


def test_the_package_itself_needs_no_command_line_library() -> None:
    program = "import sys, ringcast; print([one for one in ('click', 'rich') if one in sys.modules])"
    assert run_python(program).stdout == "[]\n"


@pytest.mark.parametrize("seed", range(30))
def test_lines_come_out_the_same_however_the_input_is_cut(seed: int) -> None:
    source = random.Random(seed)
    data = bytes(source.choices(b"ab\n\r", [5, 5, source.choice([0, 1, 5]), 1], k=source.randrange(2000)))
    limit = source.choice([1, 2, 7, 100, 5000])
    splitter, messages = LineSplitter(limit), []
    at = 0
    while at < len(data):
        size = source.randrange(1, source.choice([2, 10, 500]))
        messages += splitter.feed(data[at : at + size])
        at += size
    messages += splitter.finish()
    lines = [line + b"\n" for line in data.split(b"\n")[:-1]] + [data[data.rfind(b"\n") + 1 :]]
    assert messages == [line[at : at + limit] for line in lines for at in range(0, len(line), limit)]


@pytest.mark.parametrize("seed", range(30))
def test_frames_come_out_the_same_however_the_input_is_cut(seed: int) -> None:
    source = random.Random(seed)
    sent = [source.randbytes(source.choice([0, 1, 4, 50, 700])) for _ in range(source.randrange(30))]
    data = b"".join(map(frame, sent))
    splitter, messages = FrameSplitter(700), []
    at = 0
    while at < len(data):
        size = source.randrange(1, source.choice([2, 10, 500]))
        messages += splitter.feed(data[at : at + size])
        at += size
    assert splitter.finish() == []
    assert splitter.error is None
    assert messages == sent
