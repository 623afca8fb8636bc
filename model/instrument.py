"""Makes copies of the protocol's headers in which each memory order and fence can be weakened at run time.

A memory order becomes `model::order(N, std::memory_order_x)`, a fence `model::fence(N, std::memory_order_x)`, and
before a statement named in EDITS comes an `if (model::edited(N))`. Nothing else changes and lines keep their numbers,
so what is explored is the core's own code, and a trace shows its lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

HEADERS = ["ring.hpp", "seats.hpp", "parking.hpp", "armed.hpp", "marks.hpp", "board.hpp", "readiness.hpp"]
HEADERS += ["pool/index.hpp", "pool/pins.hpp", "pool/mailbox.hpp", "pool/parts.hpp", "pool/journal.hpp"]
WEAKER_ORDER = {"acquire": ["relaxed"], "release": ["relaxed"], "acq_rel": ["acquire", "release"]}
WEAKER_FENCE = {"seq_cst": ["acq_rel", "none"], "acquire": ["none"], "release": ["none"]}
PLACE = re.compile(r"(?<!::order\()std::memory_order_(\w+)|P::fence_(seq_cst|acquire|release)\(\)")


@dataclass(frozen=True)
class Mutant:
    """One change that must break something. `order` is what the place is weakened to, or "edit"."""

    number: int
    header: str
    line: int
    text: str
    change: str
    order: str

    @property
    def title(self) -> str:
        """What it is, the same in the next run, so that explained.txt can name it."""
        return f"{self.header} | {self.text} | {self.change}"


@dataclass(frozen=True)
class Edit:
    """A wrong change that is no memory order: `instead` of the first `statement` after `anchor`, or before it."""

    header: str
    anchor: str
    statement: str
    instead: str
    what: str
    too: bool = False  # `instead` comes before the statement, and the statement after it


EDITS = [
    Edit("pool/parts.hpp", "bool complete_with(", "if (there ==", "return true;", "the first part completes the chunk"),
    Edit(
        "ring.hpp",
        "void publish(",
        "P::copy(",
        "slot.sequence.store(position_ + 1, std::memory_order_release);",
        "the sequence is stored before the descriptor, and again after it",
        too=True,
    ),
    Edit("ring.hpp", "void scan()", "if (unannounced_)", "", "a scan does not announce first"),
    Edit("ring.hpp", "void announce()", "unpark<P>", "", "readers are not woken"),
    Edit("ring.hpp", "bool evict(", "unpark<P>", "", "an evicted reader is not woken"),
    Edit("ring.hpp", "bool touch_block(", "return still_seated();", "return true;", "a descriptor is believed unseen"),
    Edit("ring.hpp", "bool touch_block(", "if (mark.load(", "", "a dead predecessor's mark is left"),
    Edit("ring.hpp", "bool touch_block(", "seat_->touching.store(", "", "a reader does not say which block it touches"),
    Edit("ring.hpp", "bool settle()", "return still_seated();", "return true;", "a copy is believed unseen"),
    Edit("ring.hpp", "bool settle()", "if (waited_for", "", "the writer is not woken by a cursor"),
    Edit("ring.hpp", "bool seat_passed(", "if (!gates", "", "the writer waits for a seat that was left"),
    Edit(
        "seats.hpp",
        "bool is_attached(",
        "return seat_state",
        "return seat_state(seat.state.load(std::memory_order_acquire)) == SeatState::active;",
        "a reader counts as attached before it knows its first message",
    ),
    Edit(
        "seats.hpp",
        "bool take_seat(",
        "taken.first = ring.control->head",
        "taken.first = seat.cursor.load(std::memory_order_relaxed);",
        "a joiner does not read the head again",
    ),
    Edit(
        "seats.hpp",
        "bool take_seat(",
        "taken.first = taken.since;",
        "taken.first = ring.control->head.load(std::memory_order_relaxed);",
        "what was kept for a rank is skipped",
    ),
    Edit("seats.hpp", "bool take_seat(", "unpark<P>", "", "the writer is not woken by a claim"),
    Edit("seats.hpp", "bool expect_reader(", "unpark<P>", "", "the writer is not woken by what is kept"),
    Edit("seats.hpp", "void leave_seat(", "unpark<P>", "", "the writer is not woken by a seat that is left"),
    Edit("seats.hpp", "bool forgo_home(", "unpark<P>", "", "the writer is not woken by a seat that nobody will take"),
    Edit(
        "ring.hpp",
        "void go_on()",
        "++cursor_;",
        "seat_->cursor.store(cursor_ + 1, std::memory_order_release);",
        "what is taken counts as acknowledged",
        too=True,
    ),
    Edit("ring.hpp", "void go_to(", "index_ = ", "", "a link that goes back stays at its slot"),
    Edit("board.hpp", "void post_placement(", "unpark<P>", "", "the writer is not woken by what becomes of a reader"),
    Edit("board.hpp", "void ask_to_evict(", "if (stream <", "", "a link is not woken by the writer's wish"),
    Edit("parking.hpp", "ParkResult park(", "if (ready())", "", "a sleeper does not look again"),
    Edit("parking.hpp", "void unpark(", "if (parked.word.exchange(", "", "the waker stamps and leaves the word"),
    Edit("parking.hpp", "void disarm(", "if (before == kSelects)", "", "who waits for many ends is not told of a park"),
    Edit(
        "parking.hpp",
        "void disarm(",
        "parked.word.compare_exchange",
        "parked.word.store(0, std::memory_order_relaxed);",
        "a park takes back what another one armed",
    ),
    Edit(
        "armed.hpp",
        "bool arm(",
        "if (source.something())",
        "any |= source.something(), source.armed = true;",
        "a source that is not empty counts as armed",
    ),
    Edit("parking.hpp", "void rouse(", "unpark<P>", "", "a process does not wake its own end"),
    Edit(
        "marks.hpp",
        "bool is_marked(",
        "return ring.mark",
        "return ring.mark(column, row).load(std::memory_order_acquire) != 0;",
        "an earlier message's mark counts",
    ),
    Edit(
        "marks.hpp",
        "bool may_read(",
        "if (position == cursor) {",
        "if (position == cursor) return false;",
        "an evicted reader's current block is not kept",
    ),
    Edit(
        "marks.hpp",
        "std::uint32_t first_holder(",
        "while (column",
        "for (column = ring.n_seats + 1; column-- > 0;) if (holds(column)) return column; column = ring.n_seats + 1;",
        "seats are asked by falling numbers",
    ),
    Edit(
        "pool/index.hpp",
        "void take_back(",
        "set(entry,",
        "set(entry, generation_of(word(entry)), EntryState::reserved);",
        "an entry that comes back from a tier is in the same generation",
    ),
]


def instrument(core: Path, target: Path) -> list[Mutant]:
    """Writes the headers into the folder `target`; returns what can be weakened in them."""
    target.mkdir(parents=True, exist_ok=True)
    mutants: list[Mutant] = []
    places = 0
    for header in HEADERS:
        source = (core / header).read_text()
        lines = source.splitlines()
        changes: list[tuple[int, int, str]] = []

        def where(offset: int, source: str = source, lines: list[str] = lines) -> tuple[int, str]:
            line = source.count("\n", 0, offset) + 1
            return line, " ".join(lines[line - 1].split())

        for match in PLACE.finditer(source):
            order, fence = match.groups()
            function, weaker = ("fence", WEAKER_FENCE) if fence else ("order", WEAKER_ORDER)
            written = fence or order
            text = f"model::{function}({places}, std::memory_order_{written})"
            changes.append((match.start(), match.end(), text))
            if fence is None and written == "seq_cst":
                raise SystemExit(f"{header}:{where(match.start())[0]}: the model has no seq_cst accesses, only fences")
            for to in weaker.get(written, []):
                line, line_text = where(match.start())
                # Two orders in one line are told apart by what comes before them.
                nth = [m.group() for m in PLACE.finditer(line_text)].count(match.group())
                index = (
                    f" ({source[: match.start()].rsplit(chr(10), 1)[-1].count(match.group()) + 1})" if nth > 1 else ""
                )
                mutants.append(Mutant(places, header, line, line_text, f"{written} -> {to}{index}", to))
            places += 1
        for edit in (e for e in EDITS if e.header == header):
            if source.count(edit.anchor) != 1:
                raise SystemExit(f"model/instrument.py: {header} has not exactly one '{edit.anchor}'")
            at = source.index(edit.statement, source.index(edit.anchor))
            then = "" if edit.too else "else "
            changes.append((at, at, f"if (model::edited({places})) {{ {edit.instead} }} {then}"))
            line, line_text = where(at)
            mutants.append(Mutant(places, header, line, line_text, edit.what, "edit"))
            places += 1
        for begin, end, text in sorted(changes, reverse=True):
            source = source[:begin] + text + source[end:]
        (target / header).parent.mkdir(exist_ok=True)
        (target / header).write_text(f'#line 1 "src/core/{header}"\n{source}')
    return mutants
