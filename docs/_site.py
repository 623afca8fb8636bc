"""What the site needs beyond Markdown: links that also work on GitHub, and docstrings as pages.

MkDocs calls `on_page_markdown`; mkdocstrings' reader of the source loads `Docstrings`.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = "https://github.com/ringcast/ringcast/blob/main/"
_OUTWARD = re.compile(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")
_EXAMPLE = re.compile(r"(?:^[ ]*>>> .*(?:\n(?![ ]*$).*)*)", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links from a page to files of the repository that are not pages lead to the repository."""
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")

    def outward(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[1]))
        if path.startswith("docs/") or not (ROOT / path).exists():  # MkDocs judges it
            return link[0]
        return f"]({REPOSITORY}{path}{link[2] or ''})"

    return _OUTWARD.sub(outward, markdown)


class Docstrings(griffe.Extension):
    """Examples become blocks of code, and what is native gets the documentation that it has at run time."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self._visit(pkg, set())

    def _visit(self, found: griffe.Object, seen: set[str]) -> None:
        if found.path in seen:
            return
        seen.add(found.path)
        if found.docstring is None and found.path.startswith("ringcast._core."):
            self._ask(found)
        if found.docstring is not None:
            found.docstring.value = _EXAMPLE.sub(_fenced, found.docstring.value)
        for member in found.members.values():
            if not member.is_alias:
                self._visit(member, seen)  # type: ignore[arg-type]

    def _ask(self, found: griffe.Object) -> None:
        native: Any = import_module("ringcast._core")
        for name in found.path.split(".")[2:]:
            native = getattr(native, name, None)
        text = inspect.getdoc(native)
        if text and not isinstance(native, int | float | str | bytes | tuple | dict):
            found.docstring = griffe.Docstring(text, parent=found)


def _fenced(example: re.Match[str]) -> str:
    lines = inspect.cleandoc(example[0]).splitlines()
    return "\n".join(["```pycon", *(line.partition("  # doctest: ")[0] for line in lines), "```"])
