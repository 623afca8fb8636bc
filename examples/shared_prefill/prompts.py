"""Prompts as a service for programmers gets them: always the same instructions, one of a few modules, and a question.

The modules are the standard library's, from their beginning; a question is about a function of the module and repeats
its code. So prompts have long beginnings in common, as those of real services do. A token is a byte.
"""

from __future__ import annotations

import ast
import random
import sysconfig
from pathlib import Path

MODULES = ("contextlib", "heapq", "queue", "textwrap")
MODULE_BYTES, QUESTION_BYTES = 2000, 300
INSTRUCTIONS = """\
You are shown a module of Python's standard library, and then a question about one of its functions. Answer it for a
programmer who is new to the module: what the function is for, what it takes and gives, and what it does about errors.
Say nothing that the code does not say. If the code does not answer the question, say that, and nothing else.
"""


def make_prompts(modules: int, questions: int, seed: int) -> list[list[int]]:
    """The tokens of so many questions about so many modules, in the order in which they happen to come."""
    chance = random.Random(seed)
    prompts = []
    for name in MODULES[:modules]:
        source = Path(sysconfig.get_path("stdlib"), f"{name}.py").read_text(encoding="utf-8")
        functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
        for function in chance.sample(functions, questions):
            code = ast.get_source_segment(source, function) or ""
            question = f"\n\nWhat does {function.name} of {name} do?\n\n{code[:QUESTION_BYTES]}"
            prompts.append(list((INSTRUCTIONS + source[:MODULE_BYTES] + question).encode()))
    chance.shuffle(prompts)
    return prompts
