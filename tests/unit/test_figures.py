"""What the measuring engine makes of figures: percentiles that samples carry, comparisons in words, busy machines."""

from __future__ import annotations

import random

import pytest

from ringcast.cli.lab.machine import busy
from ringcast.cli.lab.measure import P50, P90, P99, P99_9, Outcome, Series, latencies, percentile
from ringcast.cli.lab.text import faster, figure


def series_of(samples: int) -> Series:
    values = list(range(1, samples + 1))
    random.Random(1).shuffle(values)
    series = Series()
    for at in range(0, samples, 1000):
        series.add(latencies(values[at : at + 1000]))
    return series


def test_a_percentile_is_the_value_that_so_many_do_not_exceed() -> None:
    assert percentile([3, 1, 2], 50.0) == 2
    assert percentile(range(1, 101), 99.0) == 99
    assert percentile(range(1, 101), 100.0) == 100
    assert percentile([7], 99.0) == 7


def test_p99_is_a_figure_from_ten_thousand_samples_on() -> None:
    assert series_of(9_999).value(P99) is None
    assert series_of(10_000).value(P99) == 9_900


def test_p99_9_takes_more() -> None:
    assert series_of(49_999).value(P99_9) is None
    assert series_of(50_000).value(P99_9) == 49_950


def test_other_percentiles_are_shown_as_they_are() -> None:
    assert series_of(100).value(P90) == 90
    assert series_of(1).value(P50) == 1


def test_a_round_of_too_few_samples_has_no_p99_of_its_own_either() -> None:
    assert set(latencies([1] * 9_999).values) == {"p50"}
    assert set(latencies([1] * 10_000).values) == {"p50", "p99"}


def test_the_median_of_rounds_is_no_mean() -> None:
    series = Series()
    for value in (1.0, 100.0, 2.0):
        series.add(Outcome({"p50": value}))
    assert series.value(P50) == 2.0


@pytest.mark.parametrize(
    ("ratio", "lower_is_better", "words"),
    [
        (44.4, True, "44x slower"), (44.4, False, "44x faster"), (0.0227, False, "44x slower"),
        (1 / 12, True, "12x faster"), (1.5, False, "1.5x faster"), (123_456.0, False, "123,456x faster"),
        (1.04, False, "same"), (0.97, True, "same"),
    ],
)  # fmt: skip
def test_a_ratio_is_said_in_words(ratio: float, lower_is_better: bool, words: str) -> None:
    assert faster(ratio, lower_is_better) == words


def test_figures_have_three_digits_and_the_unit_that_suits() -> None:
    assert [figure(each, "ns") for each in (57.04, 1_372, 44_000, 2e9, None)] == [
        "57.0 ns", "1.37 µs", "44.0 µs", "2.00 s", "-",
    ]  # fmt: skip


def test_a_machine_is_busy_by_what_others_used_or_else_by_its_load() -> None:
    assert busy({"others_percent": 9.0, "stolen_percent": 0.5}) == ""
    assert (
        busy({"others_percent": 26.3, "stolen_percent": 0.0}) == "other processes used 26.3 % of the machine meanwhile"
    )
    assert "and its host 20 %" in busy({"others_percent": 1.0, "stolen_percent": 20.0})
    assert busy({"load_before": 0.1, "cpus": 4}) == ""
    assert busy({"load_before": 3.5, "cpus": 4}) == "the load of the machine was 3.5 before"
