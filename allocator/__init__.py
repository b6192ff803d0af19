"""The allocator: owns the port state of every node and serialises allocations."""

from hostport.tls import require_tls13

require_tls13()
