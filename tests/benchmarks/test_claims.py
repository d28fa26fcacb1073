"""What was to be reached is held to what was measured, and measured where it was not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from gatestep.benchmarks import claims, peers, results
from gatestep.benchmarks.cells import Case, Net
from gatestep.benchmarks.cold import Cold, Start
from gatestep.benchmarks.measuring import Engine, Measured
from gatestep.benchmarks.timing import Spread

from gatestep.__main__ import main

NET = Net("lstm", 40, 64)


def flat(value: float) -> Spread:
    return Spread(value, value, value, value, 9)


def measured(case: Case, ours: float, error: float = 0.0, **others: tuple[float, float]) -> Measured:
    """A case whose contenders took so many ns, with such an error; the limit is half of ours."""
    engines = {"gatestep": Engine(flat(ours), None, error)}
    engines |= {name.replace("_", " "): Engine(flat(ns), None, wrong) for name, (ns, wrong) in others.items()}
    ratios = {name: flat(engine.ns.median / ours) for name, engine in engines.items() if name != "gatestep"}
    return Measured(
        str(case.net),
        case.net.size,
        case.mode,
        case.frames,
        case.rows,
        case.precision,
        case.threads,
        1,
        1,
        engines,
        ratios,
        flat(ours / 2),
        flat(0.5),
        {},
    )


def answer(aim: claims.Aim, cases: list[Measured], monkeypatch: pytest.MonkeyPatch) -> claims.Answer:
    monkeypatch.setattr(claims, "AIMS", (aim,))
    (made,) = claims.answers(results.Report(results.Surroundings.here({"gatestep": "1"}), cases=cases))
    return made


@pytest.mark.parametrize(("least", "reached"), [(2.9, True), (3.0, True), (3.1, False), (1, True)])
def test_a_ratio_is_against_the_fastest_peer(least: float, reached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = measured(Case.of(NET, "step"), 1000, numpy=(9000, 0), litert=(3000, 0))
    made = answer(claims.Aim("", NET, "step", least), [case], monkeypatch)
    assert (made.ours, made.other, made.figure, made.limit) == ("1.00 µs", "litert 3.00 µs", "3.00×", "6.00×")
    assert made.reached == reached


def test_equal_is_not_more(monkeypatch: pytest.MonkeyPatch) -> None:
    case = measured(Case.of(NET, "step"), 1000, litert=(1000, 0))
    assert not answer(claims.Aim("", NET, "step", 1), [case], monkeypatch).reached


@pytest.mark.parametrize(("error", "chosen"), [(1e-2, "w8"), (1e-3, "w16"), (1e-9, "w16")])
def test_a_peer_is_held_to_the_fastest_tier_that_is_no_less_exact(
    error: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiers = [
        measured(Case.of(NET, "step", tier), ns, wrong, litert=(3000, error))
        for tier, ns, wrong in (("w8", 500, 5e-3), ("w16", 1000, 1e-5))
    ]
    aim = claims.Aim("", NET, "step", 4, ("w8", "w16"))
    made = answer(aim, tiers, monkeypatch)
    assert made.what == f"LSTM 40→64 step, {chosen}"
    assert made.reached == (chosen == "w8")
    assert claims.answers(results.Report(results.Surroundings.here({}), cases=tiers[:1])) == []


def test_against_ours_and_against_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    two = measured(Case.of(NET, "step", threads=2), 500, gatestep_1_thread=(1000, 0), litert=(700, 0))
    one = measured(Case.of(NET, "step"), 1100, litert=(2200, 0))
    alone = answer(claims.Aim("", NET, "step", 2, threads=2, against=claims.ALONE), [two], monkeypatch)
    assert (alone.other, alone.figure, alone.reached) == ("gatestep 1 thread 1.00 µs", "2.00×", True)
    # Twice as long as ours on one thread, which takes twice as long as on two.
    mixed = answer(claims.Aim("", NET, "step", 4, threads=2, against=claims.ONE_THREAD), [two, one], monkeypatch)
    assert (mixed.other, mixed.figure, mixed.reached) == ("litert 2.20 µs", "4.00×", True)


@pytest.mark.parametrize(("ours", "reached"), [(115.0, [True, False]), (99.0, [True, True]), (116.0, [False, False])])
def test_starts(ours: float, reached: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "AIMS", ())
    taken = {"numpy": 100.0, "gatestep (.gatestep)": ours, "gatestep (.onnx)": ours, "onnxruntime": 110.0}
    cold = Cold(1, 0.0, 0.0, {name: Start(ms, ms, ms, ms - 100.0, 0) for name, ms in taken.items()})
    made = claims.answers(results.Report(results.Surroundings.here({}), cold=cold))
    assert [one.reached for one in made] == reached


def test_what_is_measured_is_not_measured_again() -> None:
    """A grid that has all of it leaves nothing; every list of cases differs in precision alone."""
    everything = list(claims.cases([]))
    assert not list(claims.cases(everything))
    for together in everything:
        assert len({replace(case, precision="float32") for case in together}) == 1
    steps = {case.net.size for together in everything for case in together if case.mode == "step"}
    assert {"1→16", "512→1024"} <= steps


@pytest.mark.usefixtures("brief")
def test_command(tmp_path: Path) -> None:
    """By themselves, written between the markers, beside nothing else of the grid."""
    path, page = tmp_path / "figures.md", tmp_path / "page.html"
    assert main(["bench", "--quick", "--parts=claims", f"--markdown={path}", f"--html={page}"]) == 0
    written = path.read_text()
    installed, _ = peers.available(peers.DEFAULT)
    if installed:
        assert "**One frame, float32, against the fastest peer**" in written
        assert "| GRU 3→17 step, 2 threads" in written
    for text in ("Two threads, against one", "GRU 3→17 step, w16", "GRU 3→17", "2 rows", "LSTM 40→64 (.onnx)"):
        assert text in written
    assert "What was to be reached" in page.read_text()
