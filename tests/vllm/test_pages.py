"""What counts as a page: a block that is one run of memory, and nothing that only looks so."""

from __future__ import annotations

import pytest

from ringcast.errors import LayoutError
from ringcast.vllm._pages import form_of, page_bytes

_B, _H, _N, _C = 10, 4, 16, 64
_PAGE = _H * _N * _C * 2


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        pytest.param((_B, _H, _N, _C), (_H * _N * _C, _N * _C, _C, 1), id="LBHNC"),
        pytest.param((_B, _H, _N, _C), (_H * _N * _C, _C, _H * _C, 1), id="LBNHC"),
        pytest.param((_B, _H, _N, _C), (3 * _H * _N * _C, _N * _C, _C, 1), id="BLHNC, of three layers"),
        pytest.param((2 * _B, _H, _N // 2, _C), (_H * _N // 2 * _C, _N // 2 * _C, _C, 1), id="two rows of a kernel's"),
        pytest.param((_B, _N * _H * _C), (_H * _N * _C, 1), id="latent"),
    ],
)
def test_a_block_that_is_one_run_is_a_page(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    assert page_bytes("layer", shape, strides, 2, _B) == _PAGE


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        pytest.param((_B, _H, _N, _C), (_N * _C, _B * _N * _C, _C, 1), id="LHBNC"),
        pytest.param((_B, _H, _N, _C), (_N * _C * 3, _B * _N * _C * 3, _C, 1), id="BHLNC-like"),
        pytest.param((2, _B, _N, _H, _C), (_B * _N * _H * _C, _N * _H * _C, _H * _C, _C, 1), id="keys, then values"),
        pytest.param((2 * _B, _H, _N // 2, _C), (_H * _N * _C, _N // 2 * _C, _C, 1), id="rows apart"),
        pytest.param((_B + 1, _H, _N, _C), (_H * _N * _C, _N * _C, _C, 1), id="another number of blocks"),
        pytest.param((_B, _H, _N, _C), (0, _N * _C, _C, 1), id="one block many times"),
        pytest.param((_B, 0), (0, 1), id="nothing"),
    ],
)
def test_what_is_none_is_refused(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    with pytest.raises(LayoutError, match=r"the cache of layer has the shape \["):
        page_bytes("layer", shape, strides, 2, _B)


def test_a_pages_form_is_the_same_for_any_number_of_blocks_and_another_for_another_order() -> None:
    one = form_of((_B, _H, _N, _C), (_H * _N * _C, _N * _C, _C, 1), _B)
    assert one == form_of((7, _H, _N, _C), (_H * _N * _C, _N * _C, _C, 1), 7)
    assert one != form_of((_B, _H, _N, _C), (_H * _N * _C, _C, _H * _C, 1), _B)
