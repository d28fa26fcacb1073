"""What a file claims is held against a bound before there is memory for it."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

CASES = {
    "fill": "graph.add('ConstantOfShape', (graph.constant(np.array([1 << 36])),), value=np.zeros(1, 'f4'))",
    "expand": "graph.add('Expand', (graph.constant(np.zeros(1, 'f4')), graph.constant(np.array([1 << 36]))))",
    "tile": "graph.add('Tile', (graph.constant(np.zeros(1, 'f4')), graph.constant(np.array([1 << 36]))))",
    "expanded input": "graph.add('Expand', ('x', graph.constant(np.array([1 << 36, 1]))))",
    "padded input": "graph.add('Pad', ('x', graph.constant(np.array([1 << 36, 0, 0, 0])), '', ''), mode='constant')",
}
CODE = """
import numpy as np, gatestep
from gatestep.engine.graph import Graph
graph = Graph("claims")
graph.input("x", ("N", 1), "f4")
(big,) = {big}
graph.add("Add", (big, graph.constant(np.ones(1, "f4"))), ("y",))
graph.output("y", None, "f4")
try:
    model = gatestep.Model(graph)
    model(np.zeros((1, 1), "f4"))
except gatestep.GatestepError as error:
    print(error)
"""


@pytest.mark.parametrize("name", CASES)
def test_a_claim_is_refused_before_memory_is_taken(name: str) -> None:
    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))

    code = CODE.format(big=CASES[name])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=bounded, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "out of all proportion" in done.stdout
