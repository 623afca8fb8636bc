"""Figures and tables as plain text."""

from __future__ import annotations

from collections.abc import Sequence

_STEPS = {
    "ns": ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")),
    "/s": ((1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")),
}


def figure(value: float | None, unit: str) -> str:
    """A value with three digits in the unit that suits its size; `-` for none."""
    if value is None:
        return "-"
    for size, name in _STEPS.get(unit, ()):
        if value >= size:
            return f"{digits(value / size)} {name}"
    return f"{digits(value)} {unit}"


def digits(value: float, significant: int = 3) -> str:
    """So many significant digits, never in exponents."""
    if value == 0:
        return "0"
    for places in range(4):
        if abs(value) >= 10.0 ** (significant - 1 - places) - 0.5 * 10.0 ** (-places - 1):
            return f"{value:,.{places}f}"
    return f"{value:.4f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of an aligned table; the first `left` columns are flush left, the others flush right."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    return [line(head), "  ".join("─" * width for width in widths), *map(line, rows)]


def faster(ratio: float, lower_is_better: bool, words: tuple[str, str] = ("faster", "slower")) -> str:
    """In words, what a figure that is so many times the other's is."""
    times = 1 / ratio if lower_is_better and ratio else ratio
    if times <= 0:
        return "-"
    shown = digits(max(times, 1 / times), 2)
    return "same" if float(shown.replace(",", "")) <= 1 else f"{shown}x {words[times < 1]}"
