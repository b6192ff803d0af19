"""The allocator: owns the port state of every node and serialises allocations."""
