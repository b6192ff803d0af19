"""Leases as PortLeases, against a simulated API server. `make e2e` has the real one."""
