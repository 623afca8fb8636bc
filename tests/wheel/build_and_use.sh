#!/bin/sh
# Builds the sdist, and from it the wheel; checks both; installs the wheel into a fresh environment outside the source
# tree and uses it there with two processes. PYTHON has build, twine and auditwheel; arguments are for build; UNPACK is a
# folder that gets the wheel's content. Any error ends it.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

cd "$root"
echo "== build"
"$python" -m build --outdir "$work/dist" "$@" . > "$work/build.log" 2>&1 || { tail -n 60 "$work/build.log" >&2; exit 1; }
ls -l "$work/dist"
tar -tzf "$work"/dist/*.tar.gz > "$work/contents"
for wanted in src/core/ring.hpp src/bindings/module.cpp src/ringcast/queue.py CMakeLists.txt LICENSE README.md; do
    grep -q "/$wanted\$" "$work/contents" || { echo "the sdist lacks $wanted" >&2; exit 1; }
done
if grep -E '\.so$|__pycache__|\.ruff_cache|/build/|/\.venv/' "$work/contents"; then
    echo "the sdist holds the files above, which are made by building" >&2
    exit 1
fi

echo "== check"
"$python" -m twine check --strict "$work"/dist/*
wheel=$(ls "$work"/dist/*.whl)
"$python" -m auditwheel show "$wheel"
if PATH="$(dirname "$python"):$PATH" "$python" -m auditwheel repair --wheel-dir "$work/wheelhouse" "$wheel" > "$work/repair.log" 2>&1; then
    wheel=$(ls "$work"/wheelhouse/*.whl)
    echo "repaired: $(basename "$wheel")"
else
    tail -n 3 "$work/repair.log"
    echo "not repaired; the wheel is used as it was built"
fi
"$python" - "$wheel" <<'CHECK'
import sys, zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
for wanted in ("ringcast/__init__.py", "ringcast/py.typed", "ringcast/_core.pyi", "ringcast/errors.py"):
    assert wanted in names, f"the wheel lacks {wanted}"
assert sum(name.endswith(".so") for name in names) == 1, names
strays = [name for name in names if not name.startswith("ringcast") or "__pycache__" in name or "cache" in name]
assert not strays, f"the wheel holds {strays}"
CHECK

echo "== install and use"
cd "$work"
"$python" -m venv fresh
fresh/bin/python -m pip install --quiet "$wheel"
test "$(fresh/bin/python -m pip list --format=freeze | grep -cvE '^(pip|setuptools|ringcast)=')" = 0 || { echo "it needs other packages" >&2; exit 1; }
cat > smoke.py <<'SMOKE'
"""Two processes pass objects, arrays and large bytes, and leave nothing."""
import array
import multiprocessing
import os
from importlib.util import find_spec
from pathlib import Path

import ringcast


def filled(n):
    if find_spec("numpy") is None:
        return array.array("q", [n] * 1000)
    import numpy

    return numpy.full(1000, n)


def read(handle: ringcast.Handle) -> None:
    with ringcast.MessageQueue.create_from_handle(handle, 0) as reader:
        reader.wait_until_ready(60)
        total = 0
        for message in reader:
            total += int(sum(message["array"])) + len(message["bytes"])
        assert total == sum(1000 * n + 300_000 for n in range(100)), total


if __name__ == "__main__":
    assert "site-packages" in ringcast.__file__, ringcast.__file__
    with ringcast.MessageQueue(1) as queue:
        context = multiprocessing.get_context("spawn")
        reader = context.Process(target=read, args=(queue.export_handle(),))
        reader.start()
        queue.wait_until_ready(60)
        for n in range(100):
            queue.enqueue({"array": filled(n), "bytes": bytes(300_000)}, timeout=60)
    reader.join(60)
    assert reader.exitcode == 0, reader.exitcode
    if os.path.isdir("/dev/shm"):
        assert not Path("/dev/shm", queue.segment).exists()
    print("two processes: ok")
SMOKE
fresh/bin/python -W error -X dev smoke.py
fresh/bin/ringcast ls 2> without_cli && { echo "ringcast ls works without its packages?" >&2; exit 1; }
grep 'pip install "ringcast\[cli\]"' without_cli
fresh/bin/python -m pip install --quiet "$wheel[cli,numpy]"
fresh/bin/python -W error -X dev smoke.py
version=$(fresh/bin/ringcast --version)
echo "$version"
expected=$(fresh/bin/python -c 'import ringcast; print(ringcast.__version__)')
case $version in *"$expected"*) ;; *) echo "ringcast --version does not say $expected" >&2; exit 1 ;; esac
if [ -n "${UNPACK:-}" ]; then
    rm -rf "$root/$UNPACK"
    "$python" -m zipfile -e "$wheel" "$root/$UNPACK"
fi
echo "== ok"
