"""The suite that a user runs, peers included."""
