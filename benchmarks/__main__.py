"""``python -m gatestep.benchmarks`` is ``gatestep bench``."""

import sys

from gatestep.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
