"""The package's modules depend downwards only, and in no circle; imports inside functions count, too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import ringcast

ROOT = Path(ringcast.__file__).parent
LAYERS = [
    {"_core", "_version"},
    {"errors"},
    {
        "_arguments",
        "_dropping",
        "_extras",
        "_html",
        "_interruptions",
        "_mishaps",
        "_names",
        "_refusals",
        "_registry",
        "_sizes",
        "limits",
    },
    {"_segment", "waiting"},
    {"codec", "_reports", "_stats"},
    {"_chunks", "_at_exit", "_futures", "_handle", "_joining"},
    {"_watch"},
    {"aio"},
    {"_end"},
    {"_attributes", "_of_groups"},
    {"queue", "ring"},
    {"_selector"},
    {"net"},
    {"workers"},
    {"pool"},
    {"vllm"},
    {"ringcast"},
    {"instruments"},
    {"metrics"},
    {"cli"},
    {"__main__"},
]
LATE = {("queue", "net"), ("_of_groups", "net"), ("ringcast", "net"), ("ringcast", "workers")}
"""Imports inside functions that may point upwards, named: the calls that need a process group import it then."""

HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}


def top(module: str) -> str:
    """The part of the package that a module belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "ringcast"


def for_type_checkers(tree: ast.Module) -> set[ast.stmt]:
    """Imports that never run."""
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {statement for block in blocks for statement in block.body}


def inside_functions(tree: ast.Module) -> set[ast.AST]:
    """What runs only when something is called."""
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return {node for function in functions for node in ast.walk(function)}


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """(name, whether inside a function) of the package's modules that the one at `path` imports, anywhere in it."""
    tree = ast.parse(path.read_text())
    never_run, late = for_type_checkers(tree), inside_functions(tree)
    for node in ast.walk(tree):
        if node in never_run:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in late) for alias in node.names if alias.name.split(".")[0] == "ringcast")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ringcast":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                below = ROOT.joinpath(*inner.split(".")[1:])
                is_module = below.with_suffix(".py").exists() or below.is_dir() or alias.name == "_core"
                yield inner if is_module else str(node.module), node in late


def modules() -> dict[str, set[str]]:
    """What each module imports, but for the imports that may be late and upwards."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = {
            other for other, late in imported(path) if other != name and not (late and (top(name), top(other)) in LATE)
        }
    return found


def test_no_module_imports_one_that_is_above_it() -> None:
    upwards = [
        (module, other) for module, others in modules().items() for other in others
        if HEIGHT[top(other)] > HEIGHT[top(module)]
    ]  # fmt: skip
    assert upwards == []


def test_each_import_that_may_point_upwards_is_there() -> None:
    files = {"queue": "queue.py", "_of_groups": "_of_groups.py", "ringcast": "__init__.py"}
    there = {
        (importer, top(other)) for importer, file in files.items()
        for other, late in imported(ROOT / file) if late and HEIGHT[top(other)] > HEIGHT["queue"]
    }  # fmt: skip
    assert there == LATE


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = modules()
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in graph.get(module, ()):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_only_public_modules_have_public_names() -> None:
    public = {top(module) for module in modules() if not top(module).startswith("_")}
    assert public == {
        "ringcast",
        "errors",
        "queue",
        "ring",
        "waiting",
        "aio",
        "limits",
        "codec",
        "net",
        "workers",
        "pool",
        "vllm",
        "instruments",
        "metrics",
        "cli",
    }
