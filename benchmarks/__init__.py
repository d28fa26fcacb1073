"""The suite that a user runs, peers included: ``gatestep bench``, or ``python -m gatestep.benchmarks``."""
