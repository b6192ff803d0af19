"""The live cluster, against a simulated API server."""
