"""`ringcast exporter`: a real one, asked over HTTP."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from urllib.request import urlopen

import pytest

pytest.importorskip("click")
pytest.importorskip("prometheus_client")

from ringcast import MessageQueue
from tests.processes.test_cli_ls import RINGCAST
from tests.processes.test_top import _read_when_told
from tests.support import DEADLINE_S, Child, eventually, run_python, started_pids, unique_name


@pytest.fixture
def exporter() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and where it serves."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ringcast", "exporter", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    started_pids.add(process.pid)
    assert process.stdout is not None
    said = re.fullmatch(r"serving metrics at (http://127\.0\.0\.1:\d+/metrics)\n", process.stdout.readline())
    assert said is not None
    yield process, said[1]
    process.kill()
    process.wait()
    process.stdout.close()


def scrape(url: str) -> str:
    with urlopen(url, timeout=DEADLINE_S) as answer:
        text: str = answer.read().decode()
    return text


def test_it_serves_what_there_is_and_ends_in_order(
    exporter: tuple[subprocess.Popen[str], str], start: Callable[..., Child]
) -> None:
    process, url = exporter
    name = unique_name("export")
    with MessageQueue(1, name=name) as writer:
        child = start(_read_when_told, name)
        child.receive()
        writer.enqueue(b"x")
        assert f'ringcast_queue_messages_total{{queue="{name}"}} 1.0' in scrape(url)
        up = f'ringcast_queue_reader_up{{queue="{name}",rank="0"}}'
        assert f"{up} 1.0" in scrape(url)
        child.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        assert f"{up} 0.0" in scrape(url)
        child.kill()
        assert f"{up} 0.0" in scrape(url)
    process.terminate()
    assert process.wait(DEADLINE_S) == 143


def test_it_tells_how_the_waits_of_other_processes_end(
    exporter: tuple[subprocess.Popen[str], str], start: Callable[..., Child]
) -> None:
    _, url = exporter
    name = unique_name("export")
    with MessageQueue(1, name=name) as writer:
        child = start(_read_when_told, name)
        child.receive()
        parks = re.compile(rf'ringcast_end_parks_total{{queue="{name}",rank="0",role="reader"}} (\d+)')

        def slept() -> int:
            found = parks.search(scrape(url))
            assert found is not None
            return int(found[1])

        assert slept() == 0
        child.send("read")
        eventually(slept)
        writer.enqueue(b"x")
        child.join()
        assert f'ringcast_end_rescued_wakes_total{{queue="{name}",rank="",role="writer"}} 0.0' in scrape(url)


def test_a_port_that_is_taken_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_python(RINGCAST, "exporter", "--port", str(port))
    assert result.returncode == 1
    assert result.stderr == f"ringcast: cannot listen at 127.0.0.1 port {port}: Address already in use\n"


def test_without_its_package_a_sentence_says_what_to_install() -> None:
    result = run_python(f"import sys; sys.modules['prometheus_client'] = None; {RINGCAST}", "exporter")
    assert result.returncode == 1
    assert 'pip install "ringcast[metrics]"' in result.stderr
    assert "Traceback" not in result.stderr
