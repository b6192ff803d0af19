"""What the allocator, the shim and their callers share: the contract and the command-line conventions."""
