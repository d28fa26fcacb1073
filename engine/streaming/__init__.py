"""From a graph of whole recordings to one that takes frame after frame: its states, memories and ages."""
