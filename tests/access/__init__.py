"""Who may talk to the allocator: callers over real TLS, and a simulated API server that reviews them."""
