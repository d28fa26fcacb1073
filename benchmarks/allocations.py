"""How often does a step ask for memory?

Counted, not read off the code: in a process of its own whose `malloc` counts, with an interpreter that takes every
object from `malloc` (``PYTHONMALLOC``). A loop that does nothing is counted and subtracted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

__all__ = ["CONTROL", "measure"]

#: Shows that the counter counts.
CONTROL = "bytearray(100)"

#: Counted a second time around, when everything that is made once has been made.
CHILD = '''
import json, sys
from itertools import repeat
import numpy as np
import gatestep
from gatestep.benchmarks._malloc import counted
from gatestep.benchmarks.cells import Net

COUNT = int(sys.argv[1])

def requests(statement, **names):
    # Names as arguments and a loop over None: nothing but the statement makes an object.
    code = f"""
def loop(repeat, counted, {', '.join(names)}):
    before = counted()
    for _ in repeat(None, {COUNT}):
        {statement}
    return counted() - before
"""
    exec(code, made := {})
    made["loop"](repeat, counted, **names)
    return made["loop"](repeat, counted, **names)

empty = requests("pass", x=None)
result = {"bytearray(100)": requests("make(100)", make=bytearray)}
for cell in ("lstm", "gru", "rnn"):
    stream = gatestep.load(Net(cell, 40, 64).file()).stream()
    x, out = np.ones(40, np.float32), np.empty(64, np.float32)
    result[f"{cell} step(x, out)"] = requests("step(x, out)", step=stream.step, x=x, out=out)
    result[f"{cell} step(x)"] = requests("step(x)", step=stream.step, x=x)
    kept = dict(a=None, b=None, c=None)
    result[f"{cell} step(x), kept"] = requests("a, b, c = step(x), a, b", step=stream.step, x=x, **kept)
print(json.dumps({name: (count - empty) / COUNT for name, count in result.items()}))
'''


def measure(steps: int = 10_000) -> dict[str, float]:
    """Requests for memory per call, by what is called.

    Parameters
    ----------
    steps : int
        Calls of each.

    Returns
    -------
    dict
        With `CONTROL`, which is known to ask for memory.

    Raises
    ------
    OSError
        Nothing was counted: the C library is not GNU's.
    """
    from . import _malloc

    environment = {**os.environ, "LD_PRELOAD": _malloc.__file__, "PYTHONMALLOC": "malloc"}
    result = subprocess.run(
        [sys.executable, "-c", CHILD, str(steps)], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    counts: dict[str, float] = json.loads(result.stdout)
    if not counts[CONTROL]:
        raise OSError("requests for memory cannot be counted with this C library")
    return counts
