"""The freeze of a ring of unordered flags: that it is possible, what prevents it, and that the program shows it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest

from model.freeze import compiler
from model.freeze.orders import ORDERS, Order, explore

NOTHING, WRITERS, READERS, BOTH = ORDERS


@pytest.mark.parametrize("order", [WRITERS, READERS], ids=["writer's stores alone", "reader's loads alone"])
def test_one_side_s_order_does_not_prevent_the_freeze(order: Order) -> None:
    outcomes, _ = explore(order)
    assert {"right", "a torn message", "both sides wait for ever"} < outcomes.keys()
    # Two messages arrived, and of the third the reader saw what the second had left: "look into the socket".
    assert outcomes["both sides wait for ever"] == ("0", "1")


def test_what_both_sides_order_is_right_always() -> None:
    outcomes, states = explore(BOTH)
    assert outcomes == {"right": ("0", "1", "2")}
    assert states < explore(replace(BOTH, reader_loads=False))[1]


def test_the_program_shows_what_the_compiler_does() -> None:
    if shutil.which("c++") is None:
        if os.environ.get("CI"):
            pytest.fail("a C++ compiler is needed")
        pytest.skip("a C++ compiler is missing")
    compiler.compile_program()
    outcomes = {loop: compiler.outcome(loop) for loop in compiler.LOOPS}
    assert outcomes["calling"] == outcomes["relaxed"] == "went on"
    # What a compiler makes of the others is its own affair; not every one takes every liberty.
    assert {outcomes["bare"], outcomes["pausing"]} <= {"went on", "went on before the message", "froze"}
    print(outcomes)


def test_stores_after_the_flag_are_found() -> None:
    flag_last = ["movb $0x0,(%rdi)", "movups %xmm0,0x8(%rdi)", "movb $0x1,(%rdi)"]
    assert compiler.after_the_flag(flag_last) == []
    assert compiler.after_the_flag([*flag_last, "movups %xmm3,0x38(%rdi)"]) == ["movups %xmm3,0x38(%rdi)"]
