"""Figures and tables as plain text."""

from __future__ import annotations

from collections.abc import Sequence

_STEPS = {
    "ns": ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")),
    "/s": ((1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")),
}


def figure(value: float | None, unit: str) -> str:
    """A value with three digits in the unit that suits its size; ``-`` for none."""
    if value is None:
        return "-"
    for size, name in _STEPS.get(unit, ()):
        if value >= size:
            return f"{digits(value / size)} {name}"
    return f"{digits(value)} {unit}"


def digits(value: float) -> str:
    """Three significant digits, never in exponents."""
    if value == 0:
        return "0"
    for bound, places in ((99.95, 0), (9.995, 1), (0.9995, 2), (0.09995, 3)):
        if abs(value) >= bound:
            return f"{value:,.{places}f}"
    return f"{value:.4f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of an aligned table; the first ``left`` columns are flush left, the others flush right."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    return [line(head), "  ".join("─" * width for width in widths), *map(line, rows)]
