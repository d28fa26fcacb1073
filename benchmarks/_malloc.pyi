def counted() -> int:
    """Requests for memory since the process began; 0 where this module is not preloaded."""
