"""The engine: graph, program, model, stream."""
