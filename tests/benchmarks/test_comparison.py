"""What counts as a change between two runs, and what is noise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from gatestep.benchmarks import comparison, results
from gatestep.benchmarks.measuring import Engine, Measured
from gatestep.benchmarks.timing import Spread

from gatestep.__main__ import main

LIMIT = 500.0


def spread(median: float, part: float = 0.02) -> Spread:
    return Spread(median, median * (1 - part), median * (1 + part), median * (1 - 2 * part), 9)


def run_of(ns: Spread, slowdown: float = 1.0) -> results.Report:
    """A run with one case, on a machine that was slower by a factor."""
    limit = spread(LIMIT * slowdown, 0.001)
    reached = Spread(limit.median / ns.median, limit.median / ns.high, limit.median / ns.low, 0.0, 9)
    case = Measured(
        "LSTM 1→2",
        "1→2",
        "step",
        1,
        1,
        "float32",
        1,
        24,
        96,
        {"gatestep": Engine(ns, None, 0.0)},
        {},
        limit,
        reached,
        {},
    )
    return results.Report(results.Surroundings.here({"gatestep": "1"}), cases=[case])


def verdict(old: results.Report, new: results.Report) -> str:
    (change,) = comparison.compared(json.loads(results.to_json(old)), new)
    return change.verdict


def test_a_change_is_seen() -> None:
    assert verdict(run_of(spread(1000)), run_of(spread(1200))) == "slower"
    assert verdict(run_of(spread(1200)), run_of(spread(1000))) == "faster"


def test_noise_is_not() -> None:
    """Little changes; changes that scatter more than they are; a slower machine."""
    assert verdict(run_of(spread(1000, 0.001)), run_of(spread(1040, 0.001))) == ""
    assert verdict(run_of(spread(1000, 0.15)), run_of(spread(1200, 0.15))) == ""
    assert verdict(run_of(spread(1000)), run_of(spread(1300), slowdown=1.3)) == ""


def test_the_table_names_case_and_machine() -> None:
    old, new = run_of(spread(1000)), run_of(spread(1200))
    before = json.loads(results.to_json(old))
    before["surroundings"]["processor"] = "abacus"
    text = comparison.comparison(before, new, comparison.compared(before, new))
    assert "processor 'abacus' then" in text
    assert "LSTM 1→2 step 1×1 float32" in text
    assert "+20%" in text
    assert "1 cases in both runs: 1 slower, 0 faster" in text


def test_cases_that_only_one_run_has_are_left_out() -> None:
    old, new = run_of(spread(1000)), run_of(spread(1000))
    new.cases = [replace(new.cases[0], threads=2)]
    assert comparison.compared(json.loads(results.to_json(old)), new) == []


@pytest.mark.usefixtures("brief")
def test_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not 0 only where that is asked for."""
    old = tmp_path / "old.json"
    arguments = ["bench", "--quick", "--parts=grid", "--cells=rnn", "--sizes=2x5", "--nets=none", "--modes=step"]
    assert main([*arguments, "--peers=none", f"--json={old}"]) == 0
    held = json.loads(old.read_text())
    for field in ("low", "median", "high", "least"):
        held["cases"][0]["engines"]["gatestep"]["ns"][field] /= 1000
        held["cases"][0]["reached"][field] *= 1000
    old.write_text(json.dumps(held))
    assert main([*arguments, "--peers=none", f"--compare={old}"]) == 0
    assert "1 slower" in capsys.readouterr().out
    assert main([*arguments, "--peers=none", f"--compare={old}", "--fail-if-slower"]) == 1
