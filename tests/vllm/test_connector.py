"""The KV connector's class against each release's own: what vLLM calls, with what, and what its engine needs of it.

The connector is imported by engines only, so it is read here; the last test imports it in the environment of one.
"""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.vllm.releases import RELEASES, SOURCES, source
from tests.vllm.test_releases import PYTHON

_BASE = "vllm/distributed/kv_transfer/kv_connector/v1/base.py"
_KNOWN = RELEASES[RELEASES.index("0.30.0") :]
_OWN = {"count", "hold", "let_go"}
"""Public methods that are no vLLM's."""


def methods(path: Path, name: str) -> dict[str, ast.FunctionDef]:
    """Of a class."""
    tree = ast.parse(path.read_text())
    of = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return {node.name: node for node in of.body if isinstance(node, ast.FunctionDef)}


def parameters(method: ast.FunctionDef) -> list[str]:
    return [one.arg for one in (*method.args.posonlyargs, *method.args.args)]


OURS = methods(ROOT / "src/ringcast/vllm/connector.py", "RingcastConnector")


@pytest.fixture(params=_KNOWN)
def base(request: pytest.FixtureRequest) -> Path:
    """The module of a release's connectors."""
    folder = source(request.param)
    if folder is None:
        pytest.skip(f"the source of vLLM {request.param} is not here: make engine-releases fetches it to ${SOURCES}")
    return folder / _BASE


def test_each_method_that_vllm_calls_takes_what_it_is_called_with(base: Path) -> None:
    theirs = methods(base, "KVConnectorBase_V1") | methods(base, "SupportsHMA")
    differing = {
        name: (parameters(method), parameters(theirs[name])) for name, method in OURS.items()
        if name in theirs and parameters(method) != parameters(theirs[name])
    }  # fmt: skip
    assert differing == {}
    assert {name for name in OURS if not name.startswith("_") and name not in theirs} == _OWN


def test_nothing_is_missing_that_it_must_have(base: Path) -> None:
    theirs = methods(base, "KVConnectorBase_V1") | methods(base, "SupportsHMA")
    abstract = {
        name for name, method in theirs.items() if any("abstract" in ast.unparse(one) for one in method.decorator_list)
    }
    assert abstract
    assert abstract <= set(OURS)


def test_it_is_refused_by_reason_in_the_environment_of_an_engine() -> None:
    python = os.environ.get(PYTHON)
    if not python:
        pytest.skip(f"${PYTHON} is not set: make engine-releases runs this in the environment of a real engine")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VLLM_PLUGINS": "", "VLLM_TARGET_DEVICE": "cpu"}
    command = [python, "-m", "tests.vllm.connector_alone"]
    result = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600.0, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "all as it should be"
