"""The documentation leaves nothing out: public names, errors, commands, variables; and its links lead somewhere."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import ringcast
from ringcast import _reports, errors, instruments, metrics, pool, workers
from tests.documentation import DOCS, blocks, sections
from tests.support import ROOT
from tests.unit.test_errors import BUILT_INS

REFERENCE = "\n".join(path.read_text() for path in sorted(DOCS.glob("reference/*.md")))
SHOWN = re.findall(r"^::: (\S+)$", REFERENCE, re.MULTILINE)
PAGES = sorted(DOCS.rglob("*.md"))
MODULES: dict[str, ModuleType] = {one.__name__: one for one in (ringcast, workers, pool, instruments, metrics)}


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_a_page(module: str) -> None:
    shown = {name.replace("ringcast._core.", "ringcast.pool.") for name in SHOWN}
    names = {
        name for name in MODULES[module].__all__ if not isinstance(getattr(ringcast, name, None), str | ModuleType)
    }
    assert {name for name in names if not {f"{module}.{name}", f"ringcast.workers.{name}"} & shown} == set()


def test_what_has_a_page_is_public() -> None:
    for name in SHOWN:
        module, _, thing = name.replace("ringcast._core.", "ringcast.pool.").rpartition(".")
        assert thing == "_stats" or thing in MODULES[module].__all__


def catalogue() -> dict[str, str]:
    return {
        section.heading: section.text for section in sections(DOCS / "errors.md") if section.heading.endswith("Error")
    }


def test_the_catalogue_has_every_error_and_no_other() -> None:
    assert set(catalogue()) == set(BUILT_INS)


@pytest.mark.parametrize("name", sorted(BUILT_INS))
def test_the_catalogue_says_what_an_error_is_why_it_came_and_what_to_do(name: str) -> None:
    what, _, rest = catalogue()[name].partition("**Cause.** ")
    cause, _, remedy = rest.partition("**Remedy.** ")
    kind = getattr(errors, name)
    (base,) = [one.__name__ for one in kind.__bases__ if one.__module__ == errors.__name__]
    for ancestor in (base, *(built_in.__name__ for built_in in BUILT_INS[name])):
        assert f"`{ancestor}`" in what
    assert len(cause.strip()) > 20
    assert len(remedy.strip()) > 20


def test_the_catalogue_names_every_attribute_that_an_error_has() -> None:
    for name, text in catalogue().items():
        kind = getattr(errors, name)
        own = {*kind.__annotations__}
        if "__init__" in vars(kind):
            own |= {*inspect.signature(kind.__init__).parameters} - {"self", "message"}
        for attribute in own:
            assert f"`{attribute}`" in text, f"{name}.{attribute}"


def test_the_catalogue_draws_the_tree_of_the_module() -> None:
    assert errors.__doc__ is not None
    drawn = next(block.text for block in blocks(DOCS / "errors.md") if "├──" in block.text)
    tree = inspect.cleandoc(errors.__doc__)
    for line in drawn.splitlines():
        assert line in tree


def test_every_command_has_a_line() -> None:
    pytest.importorskip("click")
    pytest.importorskip("rich")
    from ringcast.cli.app import COMMANDS

    page = (DOCS / "reference/cli.md").read_text()
    assert [name for name in COMMANDS if f"`ringcast {name}" not in page] == []


def test_every_variable_that_is_read_has_a_line() -> None:
    read = {
        name
        for path in Path(ringcast.__file__).parent.rglob("*.py")
        for name in re.findall(r"RINGCAST_[A-Z]+(?:_[A-Z]+)*", path.read_text())
    }
    page = (DOCS / "reference/environment.md").read_text()
    assert {name for name in read if f"`{name}`" not in page} == {"RINGCAST_COMPLETE"}  # click's, for completion


def test_every_logger_has_a_line() -> None:
    used = {
        name
        for path in Path(ringcast.__file__).parent.rglob("*.py")
        for name in re.findall(r'getLogger\("(ringcast\.[a-z]+)"\)', path.read_text())
    }
    used |= {f"ringcast.{name}" for name in re.findall(r'_log\(\s*"(\w+)"', inspect.getsource(_reports))}
    page = (DOCS / "howto/logging.md").read_text()
    assert {"ringcast.wait", "ringcast.evict", "ringcast.memory", "ringcast.pool"} <= used
    assert {name for name in used if f"| `{name}` |" not in page} == set()


def links(path: Path) -> Iterator[str]:
    for section in sections(path):
        yield from re.findall(r"\]\(([^)\s]+)\)", section.text)
        yield from re.findall(r'(?:src|srcset)="([^"]+)"', section.text)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_links_to_files_lead_to_files_also_on_github(path: Path) -> None:
    for link in links(path):
        if link.startswith(("https://", "#")):
            continue
        assert (path.parent / link.partition("#")[0]).exists(), link


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [page for path in PAGES if (page := str(path.relative_to(DOCS))) not in navigation] == []


def test_pictures_of_the_packages_page_have_whole_addresses() -> None:
    pictures = re.findall(r'!\[[^\]]*\]\(([^)]+)\)|(?:src|srcset)="([^"]+)"', (ROOT / "README.md").read_text())
    assert pictures
    assert [one for one in pictures if not "".join(one).startswith("https://")] == []


COMMAND = re.compile(r"\bringcast (pub|sub|ls|top|trace|exporter|clean|doctor|pool|link|demo|bench|completion)\b")
ABOUT_ITSELF = {"design.md", "freeze.md", "keys.md", "performance.md", "protocol.md", "release.md"}
"""Pages that nobody follows at a terminal."""


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_with_commands_says_which_extra_they_need(page: Path) -> None:
    text = page.read_text()
    if page.name not in ABOUT_ITSELF and COMMAND.search(text):
        assert re.search(r"ringcast\[cli|extras? `cli`", text)
