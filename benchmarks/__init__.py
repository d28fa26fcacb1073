"""The suite that a user runs, peers included: ``python -m gatestep.benchmarks``."""
