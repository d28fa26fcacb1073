def supported() -> tuple[str, ...]:
    """Names of the instruction sets that this machine can run, the best first."""

def multiplies_whole_numbers() -> bool: ...
