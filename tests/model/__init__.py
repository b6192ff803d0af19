"""The allocator against a model of the cluster: what may happen in any order, and what must hold after each step."""
