"""The OpenSSL that Python uses: where it cannot do what is needed, others do it, and it is left as it was found."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.core.building import run, tool
from tests.support import run_python

_hashlib = importlib.util.find_spec("_hashlib")
pytestmark = pytest.mark.skipif(
    _hashlib is None or not _hashlib.has_location, reason="its library is this Python's own"
)

RECORDS = """
import ctypes
import _hashlib
LIBRARY = ctypes.CDLL(_hashlib.__file__)
LIBRARY.ERR_peek_error.restype = ctypes.c_ulong
{before}
from ringcast._core import Cipher, chunk_keys
from ringcast.pool import Namespace
ways = [Cipher(bytes(32), by=way) for way in ("openssl", "cryptography", "size", "")]
sealed = [one.seal(1, b"text") for one in ways]
assert sealed == [sealed[0]] * 4
assert [Cipher(bytes(32)).open(1, one) for one in sealed] == [b"text"] * 4
assert Cipher(bytes(32)).open(2, sealed[0]) is None
space = Namespace("model", dtype="bfloat16", layout="pages")
keys = [chunk_keys(list(range(64)), space, 16, None, way).bytes for way in (False, True)]
assert keys[0] == keys[1]
assert LIBRARY.ERR_peek_error() == 0, "an error is left for the next caller"
"""
NO_CIPHERS = """
openssl_conf = all
[all]
providers = only
[only]
null = none
[none]
activate = 1
"""
"""A provider that can do nothing, and thereby none that can."""


def records(before: str = "", **environment: str) -> None:
    done = run_python(RECORDS.format(before=before), env=environment)
    assert done.returncode == 0, done.stderr


def test_what_was_not_proven_leaves_no_error_behind() -> None:
    records()


def test_a_library_that_refuses_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "openssl.cnf").write_text(NO_CIPHERS)
    records(OPENSSL_CONF=str(tmp_path / "openssl.cnf"))


def test_functions_of_two_libraries_are_not_used_together(tmp_path: Path) -> None:
    """Where Python's own is a part of the program, what the program has loaded for all is searched, too."""
    compiler = tool("g++") or tool("c++")
    if compiler is None:
        pytest.skip("no compiler")
    source, library = tmp_path / "half.cpp", tmp_path / "half.so"
    names = ("EVP_CIPHER_CTX_new", "EVP_MD_CTX_new")
    source.write_text(
        "".join(f'extern "C" void* {name}() {{ return reinterpret_cast<void*>(16); }}\n' for name in names)
    )
    run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)])
    records(
        f"""
with open("/proc/self/maps") as maps: path = next(line.split()[-1] for line in maps if "/libcrypto" in line)
for one in ({str(library)!r}, path): ctypes.CDLL(one, ctypes.RTLD_GLOBAL)
del _hashlib.__file__
"""
    )
