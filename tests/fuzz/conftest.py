"""The fuzzer is a program of its own, whose parts find each other beside it; so do its tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
