"""Reviews by chance, built by the structure of real ones, against the shim and the allocator behind it."""
