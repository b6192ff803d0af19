"""Who may talk to the allocator: who a caller is, and what it may do. See docs/security.md.

`callers` (pure) says who; `rights` (pure) says what a call needs; `reviews` asks the API server about both and keeps
its answers for seconds; `guard` holds the two together, once for each call.
"""
