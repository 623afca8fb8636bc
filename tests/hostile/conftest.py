"""The shim that stands in front of the C library, compiled once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of the compiled shim."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or not sys.platform.startswith("linux"):
        assert not os.environ.get("CI"), "CI needs a C compiler"
        pytest.skip("needs a C compiler, and a loader that preloads")
    library = tmp_path_factory.mktemp("shim") / f"fail{sysconfig.get_config_var('SHLIB_SUFFIX')}"
    source = Path(__file__).with_name("fail.c")
    flags = ["-std=c11", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", str(library), str(source), "-ldl"], check=True)
    return str(library)
