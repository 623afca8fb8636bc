"""The keys of token chunks. How they are made, byte for byte: docs/keys.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from ringcast import _core
from ringcast._arguments import refuse
from ringcast.pool._namespace import Namespace

Keys = _core.Keys

TOKENS_OF_A_CHUNK = 256


def chunk_keys(
    token_ids: Any, space: Namespace, chunk_size: int = TOKENS_OF_A_CHUNK, after: Keys | None = None
) -> Keys:
    """A key for each `chunk_size` tokens; what is left over at the end has none.

    `token_ids` is a list, a NumPy array of any integer type, a torch tensor, or another sequence or buffer of integers
    from 0 to 2**32 - 1; else `ArgumentError`, or `ArgumentTypeError`. A tensor on an accelerator is copied from it.

    Each key covers all tokens before its chunk's, too. `after` are keys of the same namespace that these continue, so
    that no token of theirs is hashed again; `after + chunk_keys(..., after=after)` is the whole run and usually copies
    nothing.

    An engine needs the logits after a prompt's last token, which are in no chunk: it asks for `token_ids[:-1]`, so that
    this token is left to compute even where all others are there.

    >>> space = Namespace(model="m", dtype="bfloat16", layout="pages")
    >>> keys = chunk_keys(range(600), space)
    >>> len(keys), keys[0].hex()[:16]
    (2, '5051e21c317910df')
    >>> keys + chunk_keys(range(512, 768), space, after=keys) == chunk_keys(range(768), space)
    True
    """
    return _core.chunk_keys(_in_memory(token_ids), space, chunk_size, after)


def keys_from_hashes(
    block_hashes: Sequence[bytes | int], space: Namespace, every: int = 1, after: Keys | None = None
) -> Keys:
    """Keys from an engine's own block hashes, each of which covers all blocks before it: no token is hashed again.

    With `every=n` a chunk is n blocks, and each n-th hash makes its key; what is left over at the end has none. A hash
    is bytes of any length from 1 on, or an int from 0 to 2**64 - 1, which is the same as its eight bytes in
    little-endian order; else `ArgumentError`, or `ArgumentTypeError`. `after` are the keys of the blocks before.

    >>> space = Namespace(model="m", dtype="bfloat16", layout="pages")
    >>> len(keys_from_hashes([b"hash 0", b"hash 1", b"hash 2", b"hash 3", b"hash 4"], space, every=2))
    2
    """
    return _core.keys_from_hashes(block_hashes, space, every, after)


def _in_memory(token_ids: Any) -> Any:
    """A torch tensor as an array; anything else as it is."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(token_ids, torch.Tensor):
        return token_ids
    if token_ids.dtype.is_floating_point or token_ids.dtype.is_complex or token_ids.dtype == torch.bool:
        raise refuse("token_ids", "integers", token_ids.dtype)
    return token_ids.detach().cpu().numpy()
