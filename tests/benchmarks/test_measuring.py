"""What is timed computes what it should, and figures are formed as they are said to be."""

from __future__ import annotations

import numpy as np
import pytest
from gatestep.benchmarks import limits, measuring, peers, timing
from gatestep.benchmarks._probe import Multiplier, Reader
from gatestep.benchmarks.cells import CELLS, MODES, Case, Net
from gatestep.kernels import pack

import gatestep

NETS = [
    *(Net(cell, 5, 19) for cell in CELLS),
    Net("gru", 4, 8, layers=2),
    Net("lstm", 7, 9, layers=2, outputs=5),
    Net("lstm", 5, 19, bidirectional=True),
]
SHAPES = {"step": (1, 1), "sequence": (4, 1), "batch": (4, 3), "lockstep": (1, 3)}


def results_of(contender: peers.Contender, calls: np.ndarray) -> np.ndarray:
    """What it gives, call after call, frames in a row."""
    results = []
    with contender.within:
        for x in calls:
            contender.feed[:] = x
            contender.call()
            results.append(contender.result().copy())
        assert contender.timed(3) > 0
    return np.concatenate(results)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("net", NETS, ids=str)
@pytest.mark.parametrize("precision", ["float32", "w8"])
def test_contenders_compute_the_net(net: Net, mode: str, precision: str) -> None:
    """Ours and every installed peer, call after call, against the definition of the cell; with 8 bits, nearly."""
    if net.bidirectional and mode in ("step", "lockstep"):
        pytest.skip("no steps in both directions")
    case = Case(net, mode, *SHAPES[mode], precision=precision)
    calls = case.inputs(3 if case.carried else 1)
    expected = net.reference(calls.reshape(-1, *calls.shape[2:]))
    installed, _ = peers.available(peers.DEFAULT)
    absent = []
    for name in installed:
        try:
            contender = peers.PEERS[name](case)
        except peers.Absent:
            absent.append(name)
            continue
        atol = 1e-5 if precision == "float32" else 0.05
        np.testing.assert_allclose(results_of(contender, calls), expected, atol=atol, err_msg=name)
    assert not absent or case.reduced or (net.bidirectional and absent == ["litert"])
    assert len(absent) < max(len(installed), 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("net", NETS, ids=str)
def test_ours_computes_the_net(net: Net, mode: str) -> None:
    if net.bidirectional and mode in ("step", "lockstep"):
        pytest.skip("no steps in both directions")
    case = Case(net, mode, *SHAPES[mode])
    calls = case.inputs(3 if case.carried else 1)
    expected = net.reference(calls.reshape(-1, *calls.shape[2:]))
    np.testing.assert_allclose(results_of(peers.PEERS["numpy"](case), calls), expected, atol=1e-5)
    np.testing.assert_allclose(results_of(peers.ours(case), calls), expected, atol=1e-5)


def test_unequal_results_are_never_timed(monkeypatch: pytest.MonkeyPatch, brief: timing.Effort) -> None:
    """A peer that computes something else stops the suite."""

    def wrong(case: Case) -> peers.Contender:
        made = right(case)
        return peers.Contender(made.call, made.feed, lambda: made.result() + 1e-2, made.timed)

    right = peers.PEERS["numpy"]
    monkeypatch.setitem(peers.PEERS, "numpy", wrong)
    with pytest.raises(ArithmeticError, match="numpy"):
        measuring.measure([Case(Net("lstm", 2, 5), "step", 1, 1)], ["numpy"], brief)


def test_fewer_bits_are_held_to_float32(brief: timing.Effort) -> None:
    """In the same rounds, with the error of both."""
    (measured,) = measuring.measure([Case(Net("gru", 16, 32), "step", 1, 1, "w16")], [], brief)
    assert measured.ratios.keys() == {"gatestep float32"}
    assert measured.engines["gatestep float32"].error < 1e-6
    assert measured.engines["gatestep"].error < 1e-3
    assert measured.limit is not None


def test_more_threads_are_held_to_one(brief: timing.Effort) -> None:
    """In the same rounds; it is no peer."""
    (measured,) = measuring.measure([Case(Net("gru", 4, 8), "batch", 3, 4, threads=2)], ["numpy"], brief)
    assert measured.ratios.keys() == {"gatestep 1 thread"}
    assert measured.fastest is None
    assert "numpy" in measured.absent


@pytest.mark.parametrize("cell", CELLS)
def test_kernel_call_is_the_step_of_a_stream(cell: str) -> None:
    """What is timed as the kernel gives the bits that as many steps give."""
    model = gatestep.load(Net(cell, 7, 33).file())
    x = np.linspace(-1, 1, 7, dtype=np.float32)
    call, weights, y = limits.kernel_call(model, x)
    assert call.seconds(3) > 0
    stream = model.stream()
    np.testing.assert_array_equal(y, [stream.step(x) for _ in range(3)][-1])
    assert weights.nbytes == model.packed.nbytes


def test_probes_refuse_what_they_would_misread() -> None:
    """A wrong width, an empty or a misaligned buffer."""
    memory = pack.aligned_empty(256, np.uint8)
    assert Reader(memory, 16).seconds(2) > 0
    assert Multiplier(16).seconds(1) > 0
    for buffer, width in ((memory, 8), (memory[1:], 16), (memory[:0], 16)):
        with pytest.raises(ValueError, match=r"width|buffer"):
            Reader(buffer, width)
    with pytest.raises(ValueError, match="width"):
        Multiplier(8)


def test_limits() -> None:
    """One frame reads everything once; a recording what waits for the frame before as often as there are frames."""
    net = Net("gru", 16, 32)
    ahead, after = net.products
    assert (ahead, after) == (3 * 32 * 16, 3 * 32 * 32)
    one = {"read": np.array([100.0]), "multiply": np.array([Multiplier.PER_CALL / 1e3])}  # 1000 products a ns
    step = limits.Limits(Case(net, "step", 1, 1))
    assert step.nbytes == 4 * (ahead + after)
    assert step.ns(timing.Rounds(one)) == 100
    many = limits.Limits(Case(net, "lockstep", 1, 64))
    np.testing.assert_allclose(many.ns(timing.Rounds(one)), 64 * (ahead + after) / 1e3)
    recording = limits.Limits(Case(net, "sequence", 10, 1))
    assert recording.nbytes == 4 * (ahead + 10 * after)
    both = {**one, "read ahead": np.array([50.0])}
    np.testing.assert_allclose(recording.ns(timing.Rounds(both)), 10 * 100 + 50)
    reduced = limits.Limits(Case(net, "step", 1, 1, "w8", 2))
    assert reduced.nbytes == ahead + after
    assert reduced.ns(timing.Rounds({"read": np.array([100.0])})) == 50
    assert reduced.known
    assert not limits.Limits(Case(net, "lockstep", 1, 64, "w8")).known


def test_rounds_and_ratios() -> None:
    """Ratios are formed within a round: what slows a round down for all does not change them."""
    noise = np.array([1.0, 10.0, 1.0, 5.0])
    timed = timing.Rounds({"a": 2 * noise, "b": noise})
    assert timed.ratio("a", "b") == 2
    assert timed.median("b") == 3
    assert timed.difference("a", "b") == 3
    assert timing.Spread.of(noise) == timing.Spread(3.0, 1.0, 6.25, 1.0, 4)


def test_every_contender_has_as_many_rounds(brief: timing.Effort) -> None:
    """By turns, and as often."""
    order: list[str] = []

    def timed(name: str) -> timing.Timed:
        def run(count: int) -> float:
            order.append(name)
            return count * 1e-4

        return run

    result = timing.rounds({name: timed(name) for name in "abc"}, brief)
    assert {len(ns) for ns in result.ns.values()} == {len(result.ns["a"])}
    assert [ns.round(3).tolist() for ns in result.ns.values()] == [[1e5] * len(result.ns["a"])] * 3
    assert order.count("a") == order.count("b") == order.count("c")
