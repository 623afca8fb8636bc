"""What the site needs beyond Markdown: links that also work on GitHub, and docstrings as pages.

MkDocs calls `on_page_markdown`; mkdocstrings' reader of the source loads `Docstrings`.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = "https://github.com/ringcast/ringcast/blob/main/"
_OUTWARD = re.compile(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")
_EXAMPLE = re.compile(r"^[ ]*>>> .*(?:\n(?![ ]*$).*)*", re.MULTILINE)
_SIGNATURE = re.compile(r"\A\w*\(self.*\) -> .*\s*")  # as nanobind writes it above the text
_CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]+")


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
    """Examples become blocks of code, records show their fields in one, constants as defaults show their values, and
    what is native gets the documentation that it has at run time.
    """

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        every = list(_members(pkg))
        constants = {
            one.name: one.value for one in every
            if isinstance(one, griffe.Attribute) and one.value is not None and _CONSTANT.fullmatch(one.name)
        }  # fmt: skip
        records = {"TypedDict"}
        while more := {one.name for one in every if _is_one_of(one, records)} - records:
            records |= more
        for found in every:
            if found.docstring is None and found.path.startswith("ringcast._core."):
                _ask(found)
            if found.docstring is not None:
                found.docstring.value = _EXAMPLE.sub(_fenced, found.docstring.value)
            if isinstance(found, griffe.Function):
                for parameter in found.parameters:
                    parameter.default = constants.get(str(parameter.default), parameter.default)
            elif found.name in records and isinstance(found, griffe.Class):
                _show_fields(found)


def _members(found: griffe.Object) -> Iterator[griffe.Object]:
    yield found
    for member in found.members.values():
        if not isinstance(member, griffe.Alias):
            yield from _members(member)


def _is_one_of(found: griffe.Object, names: set[str]) -> bool:
    return isinstance(found, griffe.Class) and any(str(base).rpartition(".")[2] in names for base in found.bases)


def _show_fields(record: griffe.Class) -> None:
    lines = ["```python"]
    for name, field in list(record.members.items()):
        if isinstance(field, griffe.Attribute):
            told = "" if field.docstring is None else f"  # {' '.join(field.docstring.value.split())}"
            lines.append(f"{name}: {field.annotation}{told}")
            del record.members[name]
    text = "" if record.docstring is None else record.docstring.value
    record.docstring = griffe.Docstring("\n".join([text, "", *lines, "```"]), parent=record)


def _ask(found: griffe.Object) -> None:
    native: Any = import_module("ringcast._core")
    for name in found.path.split(".")[2:]:
        native = getattr(native, name, None)
    text = _SIGNATURE.sub("", inspect.getdoc(native) or "")
    if text and not found.name.startswith("_") and not isinstance(native, int | float | str | bytes | tuple | dict):
        found.docstring = griffe.Docstring(text, parent=found)


def _fenced(example: re.Match[str]) -> str:
    lines = inspect.cleandoc(example[0]).splitlines()
    return "\n".join(["```pycon", *(line.partition("  # doctest: ")[0] for line in lines), "```"])
