"""Keys and namespaces: the documented bytes, what is taken as tokens, runs that are sliced, extended and sent."""

from __future__ import annotations

import array
import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ringcast import _core
from ringcast.errors import ArgumentError, ArgumentTypeError
from ringcast.pool import Keys, KVLayout, Namespace, chunk_keys, keys_from_hashes, salt_digest
from tests.support import run_python

SPACE = Namespace("m", dtype="bfloat16", layout="pages")
LAYOUT = KVLayout.sizes(page_bytes=[4096, 2048], pages_per_chunk=2, shards=2, cpu_isa="amx")
OTHER = Namespace(
    "org/größe", "v1", dtype="float32", layout=LAYOUT.fingerprint, shards=2, group=1, chained=False, salt=b"secret"
)
DOCUMENTED = (Path(__file__).parents[2] / "docs" / "keys.md").read_text(encoding="utf-8")


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def part(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def documented_digest(space: Namespace) -> bytes:
    """As docs/keys.md says it."""
    texts = [space.model, space.revision, space.dtype, space.layout]
    return sha256(
        part(b"ringcast namespace 1"),
        *(part(text.encode()) for text in texts),
        part(struct.pack("<I", space.shards)),
        part(struct.pack("<I", space.group)),
        part(b"\1" if space.chained else b"\0"),
        part(space.salt),
    )


def documented_keys(tokens: list[int], space: Namespace, chunk_size: int, before: bytes | None = None) -> bytes:
    found, parent = [], before or documented_digest(space)
    for begin in range(0, len(tokens) - chunk_size + 1, chunk_size):
        parent = sha256(parent, *(struct.pack("<I", token) for token in tokens[begin : begin + chunk_size]))
        found.append(parent)
    return b"".join(found)


@pytest.mark.parametrize("space", [SPACE, OTHER])
def test_a_namespace_has_the_documented_digests(space: Namespace) -> None:
    assert space.digest == documented_digest(space)
    assert space.salt_digest == sha256(part(b"ringcast salt 1"), part(space.salt))


def test_the_documented_values_are_those_that_are_made() -> None:
    values = [
        SPACE.digest,
        SPACE.salt_digest,
        *chunk_keys(range(512), SPACE),
        *keys_from_hashes([bytes(range(32)), 1], SPACE),
        OTHER.digest,
        OTHER.salt_digest,
        *chunk_keys([0, 1, 2**32 - 1], OTHER, chunk_size=3),
        bytes.fromhex(LAYOUT.fingerprint),
    ]
    rows = [line.split("|")[2].strip(" `") for line in DOCUMENTED.splitlines() if line.startswith("|")]
    assert [value.hex() for value in values] == [row for row in rows if len(row) == 64 and " " not in row]


TOKENS = [3, 2**31 - 1, 0, 7, 100, 5, 6, 127, 9, 10]


def cuts(tokens: list[int], dtype: Any) -> Any:
    """Every other element of an array twice as long, so that it has a stride."""
    return np.repeat(np.array(tokens, dtype), 2)[::2]


SMALL = [token % 128 for token in TOKENS]


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        (TOKENS, TOKENS),
        (tuple(TOKENS), TOKENS),
        (range(10), list(range(10))),
        ([np.int64(token) for token in TOKENS], TOKENS),
        ([torch.tensor(token) for token in TOKENS], TOKENS),
        *((np.array(SMALL, f"{order}{kind}"), SMALL) for kind in ("i1", "u1") for order in ("<", ">")),
        *((np.array(SMALL, f"{order}{kind}"), SMALL) for kind in ("i2", "u2") for order in ("<", ">")),
        *((np.array(TOKENS, f"{o}{kind}"), TOKENS) for kind in ("i4", "u4", "i8", "u8") for o in ("<", ">")),
        *((cuts(TOKENS, kind), TOKENS) for kind in ("<i8", ">i4", "u4")),
        (np.array(TOKENS)[::-1], TOKENS[::-1]),
        (array.array("q", TOKENS), TOKENS),
        (memoryview(array.array("I", TOKENS)), TOKENS),
        *((torch.tensor(TOKENS, dtype=kind), TOKENS) for kind in (torch.int64, torch.int32)),
        *((torch.tensor(SMALL, dtype=kind), SMALL) for kind in (torch.int16, torch.int8, torch.uint8)),
        (torch.tensor(TOKENS).repeat_interleave(2)[::2], TOKENS),
    ],
)
@pytest.mark.parametrize("by_hashlib", [False, True])
def test_tokens_may_come_in_anything_that_holds_integers(given: Any, tokens: list[int], by_hashlib: bool) -> None:
    expected = documented_keys(tokens, SPACE, 3)
    assert chunk_keys(given, SPACE, 3).bytes == expected
    if not isinstance(given, torch.Tensor):
        assert _core.chunk_keys(given, SPACE, 3, None, by_hashlib).bytes == expected


def test_the_largest_token_is_one_and_the_next_is_not() -> None:
    for kind in (np.int64, np.uint64, list):
        make: Callable[[list[int]], Any] = list if kind is list else lambda tokens, kind=kind: np.array(tokens, kind)  # type: ignore[misc]
        assert chunk_keys(make([0, 2**32 - 1]), SPACE, 2).bytes == documented_keys([0, 2**32 - 1], SPACE, 2)
        with pytest.raises(ArgumentError, match=r"token_ids\[1\] is 4294967296; a token is from 0 to 4294967295"):
            chunk_keys(make([0, 2**32]), SPACE, 2)


@pytest.mark.parametrize(
    "given",
    [
        [1, -1],
        [1, 2**80],
        *(np.array([1, -1], kind) for kind in ("i1", "<i2", ">i2", "<i4", ">i4", "<i8", ">i8")),
        np.array([1, -1, 1, -1], "i8")[::3],
        torch.tensor([1, -1]),
    ],
)
def test_a_number_that_is_no_token_is_named(given: Any) -> None:
    with pytest.raises(ArgumentError, match=r"token_ids\[1\] is -?\d+; a token is from 0"):
        chunk_keys(given, SPACE, 2)


@pytest.mark.parametrize(
    "given",
    [
        [1, 1.0],
        [1, True],
        [1, None],
        [1, "2"],
        [1, np.float32(1)],
        [1, torch.tensor(1.5)],
        [1, torch.tensor([1, 2])],
        np.array([1.0, 2.0]),
        np.array([True, False]),
        np.array([[1, 2]]),
        np.array(3),
        np.array([1, 2], object),
        np.array(["1", "2"]),
        np.array(["2026-01-01", "2026-01-02"], "M8[s]"),
        torch.tensor([1.0, 2.0]),
        torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.tensor([[1, 2]]),
        b"12",
        bytearray(b"12"),
        "12",
        {1: 2, 2: 3},
        {1, 2},
        (token for token in (1, 2)),
        12,
        None,
    ],
)
def test_what_is_no_sequence_of_integers_is_refused(given: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="token_ids"):
        chunk_keys(given, SPACE, 2)


def test_a_last_partial_chunk_has_no_key() -> None:
    lengths = [len(chunk_keys(list(range(n)), SPACE, 4)) for n in (0, 3, 4, 7, 8)]
    assert lengths == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("size", [0, -1, 2**40, 1.5, True, "256", None])
def test_a_chunk_has_a_sensible_size(size: Any) -> None:
    with pytest.raises(ArgumentError, match="chunk_size"):
        chunk_keys([1, 2], SPACE, size)


@pytest.mark.parametrize("kind", [list, np.array])
def test_tokens_that_are_left_over_must_be_tokens_too(kind: Any) -> None:
    with pytest.raises(ArgumentError, match=r"token_ids\[3\] is -1"):
        chunk_keys(kind([1, 2, 3, -1]), SPACE, 3)
    with pytest.raises(ArgumentError, match=r"token_ids\[0\] is -1"):
        chunk_keys(kind([-1]), SPACE, 3)


def test_many_tokens_are_hashed_alike_without_the_interpreters_lock() -> None:
    tokens = np.arange(1 << 16, dtype=np.int64)
    found = chunk_keys(tokens, SPACE)
    assert found.bytes == documented_keys(tokens.tolist(), SPACE, 256)
    tokens[-1] = -1
    with pytest.raises(ArgumentError, match=r"token_ids\[65535\] is -1"):
        chunk_keys(tokens, SPACE)


def test_keys_made_after_others_continue_their_chain() -> None:
    whole = chunk_keys(range(96), SPACE, 8)
    first = chunk_keys(range(40), SPACE, 8)
    rest = chunk_keys(range(40, 96), SPACE, 8, after=first)
    assert rest.parent == first[-1]
    assert rest == whole[5:]
    assert first + rest == whole
    assert chunk_keys(range(40, 96), SPACE, 8, after=whole[:5]) == whole[5:]
    assert chunk_keys(range(8), SPACE, 8, after=chunk_keys([], SPACE, 8)) == whole[:1]
    assert chunk_keys(range(8, 16), SPACE, 8, after=whole[1:1]) == whole[1:2]


def test_keys_continue_only_their_own_namespace() -> None:
    with pytest.raises(ArgumentError, match="of another namespace"):
        chunk_keys([1], SPACE, 1, after=chunk_keys([1], OTHER, 1))
    with pytest.raises(ArgumentTypeError, match="after must be Keys"):
        chunk_keys([1], SPACE, 1, after=b"x" * 32)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="space must be a Namespace"):
        chunk_keys([1], "m", 1)  # type: ignore[arg-type]


def address(keys: Keys) -> int:
    return int(np.frombuffer(memoryview(keys), np.uint8).__array_interface__["data"][0])


def test_slices_share_their_bytes_and_know_what_was_before_them() -> None:
    keys = chunk_keys(range(40), SPACE, 4)
    assert keys.parent is None
    assert keys[:5].parent is None
    assert keys[5:].parent == keys[4]
    assert keys[5:][2:].parent == keys[6]
    assert keys[-3:] == keys[7:10]
    assert len(keys[20:]) == 0
    assert address(keys[5:]) == address(keys) + 5 * 32
    assert bytes(keys[2:4]) == keys.bytes[64:128] == keys[2:4].bytes
    with pytest.raises(ArgumentError, match="step 1"):
        keys[::2]


def test_a_chain_that_grows_key_by_key_is_hardly_ever_copied() -> None:
    keys = chunk_keys(range(16), SPACE, 1)
    copies = 0
    for token in range(16, 2016):
        more = chunk_keys([token], SPACE, 1, after=keys)
        longer = keys + more
        copies += address(longer) != address(keys)
        keys = longer
    assert keys == chunk_keys(range(2016), SPACE, 1)
    assert copies < 40


def test_two_chains_from_one_beginning_do_not_disturb_each_other() -> None:
    start = chunk_keys(range(4), SPACE, 1)
    one = start + chunk_keys([10, 11], SPACE, 1, after=start)
    two = start + chunk_keys([20, 21], SPACE, 1, after=start)
    assert one.bytes == documented_keys([0, 1, 2, 3, 10, 11], SPACE, 1)
    assert two.bytes == documented_keys([0, 1, 2, 3, 20, 21], SPACE, 1)
    assert start.bytes == one.bytes[:128] == two.bytes[:128]


def test_a_failed_continuation_leaves_its_beginning_as_it_was() -> None:
    start = chunk_keys(range(4), SPACE, 1)
    with pytest.raises(ArgumentError):
        chunk_keys([4, -1], SPACE, 1, after=start)
    grown = start + chunk_keys([4, 5], SPACE, 1, after=start)
    assert grown == chunk_keys(range(6), SPACE, 1)


def test_what_does_not_continue_a_chain_is_not_joined_to_it() -> None:
    keys = chunk_keys(range(10), SPACE, 1)
    for wrong in (keys[6:], keys[:5], chunk_keys([5], SPACE, 1)):
        with pytest.raises(ArgumentError, match="do not continue the chain"):
            keys[:5] + wrong
    with pytest.raises(ArgumentError, match="cannot follow keys of namespace"):
        keys + chunk_keys([1], OTHER, 1)
    with pytest.raises(TypeError):
        keys + keys.bytes  # type: ignore[operator]
    assert keys[:5] + keys[5:] == keys
    assert keys[:0] + keys == keys + keys[10:] == keys


def test_keys_without_chains_are_joined_in_any_order() -> None:
    keys = chunk_keys(range(10), OTHER, 1)
    assert (keys[6:] + keys[:2]).bytes == keys.bytes[192:] + keys.bytes[:64]


def test_keys_are_a_sequence_of_bytes() -> None:
    keys = chunk_keys(range(6), SPACE, 2)
    assert list(keys) == [keys[0], keys[1], keys[2]] == [keys.bytes[i : i + 32] for i in (0, 32, 64)]
    assert keys[-1] == keys[2]
    assert keys[np.int64(1)] == keys[1]
    assert keys[1] in keys
    assert b"x" * 32 not in keys
    assert "x" not in keys
    for index in (3, -4, 2**70):
        with pytest.raises(IndexError):
            keys[index]
    with pytest.raises(TypeError):
        keys["0"]  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        memoryview(keys)[0] = 1


def test_equal_keys_are_equal_wherever_they_lie() -> None:
    keys = chunk_keys(range(6), SPACE, 2)
    again = chunk_keys(np.arange(6), Namespace("m", dtype="bfloat16", layout="pages"), 2)
    assert keys == again
    assert hash(keys) == hash(again)
    assert keys != keys[1:]
    assert keys != keys.bytes
    assert keys[:0] != chunk_keys([], OTHER, 2)
    assert repr(keys) == f"Keys(3 of namespace {SPACE.digest.hex()[:8]}: {keys[0].hex()[:8]} to {keys[2].hex()[:8]})"


def test_keys_travel_to_another_process() -> None:
    keys = chunk_keys(range(20), OTHER, 2)[3:]
    there = run_python(
        "import pickle, sys\n"
        "keys = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "print(keys.bytes.hex(), keys.parent.hex(), keys.space.digest.hex(), keys.space.record['model'])",
        pickle.dumps(keys).hex(),
    )
    assert there.stdout.split() == [keys.bytes.hex(), (keys.parent or b"").hex(), OTHER.digest.hex(), "org/größe"]
    again = pickle.loads(pickle.dumps(keys))
    assert (again, again.parent, again.space) == (keys, keys.parent, OTHER)


def test_keys_may_be_made_from_bytes_of_another_language() -> None:
    keys = chunk_keys(range(6), SPACE, 2)
    assert Keys(SPACE, keys.bytes) == keys
    assert Keys(SPACE, keys.bytes[32:], parent=keys[0]).parent == keys[0]
    assert keys[:1] + Keys(SPACE, keys.bytes[32:], keys[0]) == keys
    with pytest.raises(ArgumentError, match="32 bytes for each key, not 33 in all"):
        Keys(SPACE, b"x" * 33)
    with pytest.raises(ArgumentError, match="parent must be 32 bytes"):
        Keys(SPACE, b"", b"x")
    with pytest.raises(ArgumentTypeError, match="digests must be bytes"):
        Keys(SPACE, "x" * 32)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        len(Keys.__new__(Keys))


HASHES = [bytes([i]) * 32 for i in range(7)]


def test_an_engines_hashes_become_the_documented_keys() -> None:
    assert keys_from_hashes(HASHES, SPACE).bytes == b"".join(sha256(SPACE.digest, block) for block in HASHES)
    thirds = keys_from_hashes(HASHES, SPACE, every=3)
    assert list(thirds) == [sha256(SPACE.digest, HASHES[2]), sha256(SPACE.digest, HASHES[5])]
    assert _core.keys_from_hashes(HASHES, SPACE, 3, None, True) == thirds


def test_an_engines_hash_may_be_a_number_or_any_bytes() -> None:
    kinds = [b"a", bytearray(b"ab"), memoryview(b"abc"), 5, np.uint32(5), 2**64 - 1]
    expected = [b"a", b"ab", b"abc", struct.pack("<Q", 5), struct.pack("<Q", 5), b"\xff" * 8]
    assert list(keys_from_hashes(kinds, SPACE)) == [sha256(SPACE.digest, each) for each in expected]  # type: ignore[arg-type]
    numbers = np.array([5, 2**64 - 1], np.uint64)
    assert list(keys_from_hashes(numbers, SPACE)) == [sha256(SPACE.digest, each) for each in expected[4:]]  # type: ignore[arg-type]


def test_hashes_that_come_later_continue_the_chain() -> None:
    whole = keys_from_hashes(HASHES, SPACE)
    rest = keys_from_hashes(HASHES[4:], SPACE, after=whole[:4])
    assert rest.parent == whole[3]
    assert whole[:4] + rest == whole


@pytest.mark.parametrize("wrong", [b"", -1, 2**64])
def test_an_impossible_hash_is_named(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match=r"block_hashes\[1\]"):
        keys_from_hashes([b"a", wrong], SPACE)


@pytest.mark.parametrize("wrong", ["00ff", 1.5, True, None])
def test_a_hash_of_a_wrong_type_is_named(wrong: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"block_hashes\[1\]"):
        keys_from_hashes([b"a", wrong], SPACE)
    with pytest.raises(ArgumentTypeError, match="block_hashes must be"):
        keys_from_hashes(b"abc", SPACE)


def test_a_namespaces_record_is_readable_and_has_no_salt() -> None:
    assert OTHER.record == {
        "model": "org/größe",
        "revision": "v1",
        "dtype": "float32",
        "layout": LAYOUT.fingerprint,
        "shards": 2,
        "group": 1,
        "chained": False,
        "salt_digest": salt_digest(b"secret").hex(),
    }
    assert "secret" not in repr(OTHER)
    assert OTHER.salt_digest == salt_digest(b"secret") != salt_digest(b"")


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"revision": "x"},
        {"dtype": "float16"},
        {"layout": "other"},
        {"shards": 2},
        {"group": 1},
        {"chained": False},
        {"salt": b"x"},
        {"model": "mx", "revision": ""},
        {"model": "", "revision": "m"},
    ],
)
def test_whatever_differs_makes_another_namespace(change: dict[str, Any]) -> None:
    plain: dict[str, Any] = {"model": "m", "dtype": "bfloat16", "layout": "pages"}
    if change.get("model") == "":
        plain["model"], change = "x", {"revision": "m"}
        assert Namespace("xm", dtype="bfloat16", layout="pages").digest != Namespace(**plain | change).digest
    assert Namespace(**plain | change).digest != SPACE.digest
    assert Namespace(**plain | change) != SPACE


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", torch.bfloat16])
def test_an_element_type_has_one_name(dtype: Any) -> None:
    assert Namespace("m", dtype=dtype, layout="pages") == SPACE
    assert Namespace("m", dtype=np.float32, layout="l") == Namespace("m", dtype=np.dtype("f4"), layout="l")


@pytest.mark.parametrize(
    ("change", "type_of_error"),
    [
        ({"model": 5}, ArgumentTypeError),
        ({"model": ""}, ArgumentError),
        ({"model": "\ud800"}, ArgumentError),
        ({"model": "x" * 1025}, ArgumentError),
        ({"dtype": 5}, ArgumentTypeError),
        ({"dtype": int}, ArgumentTypeError),
        ({"dtype": ""}, ArgumentError),
        ({"layout": LAYOUT}, ArgumentTypeError),
        ({"layout": b"x"}, ArgumentTypeError),
        ({"shards": 0}, ArgumentError),
        ({"shards": True}, ArgumentTypeError),
        ({"group": -1}, ArgumentError),
        ({"chained": 2}, ArgumentError),
        ({"salt": "x"}, ArgumentTypeError),
        ({"salt": b"x" * 1025}, ArgumentError),
    ],
)
def test_a_namespace_is_checked_when_it_is_made(change: dict[str, Any], type_of_error: type[Exception]) -> None:
    with pytest.raises(type_of_error, match=next(iter(change))):
        Namespace(**{"model": "m", "dtype": "bfloat16", "layout": "pages"} | change)


def test_a_namespace_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        SPACE.model = "other"  # type: ignore[misc]
