"""From the graph of a file to the graph that runs: what is fixed, recognised, rolled up, freed."""
