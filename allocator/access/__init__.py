"""Who may talk to the allocator: who a caller is, and what it may do. See docs/security.md.

| module | what it is for |
|---|---|
| `guard` | says for each call who makes it, and what it needs; every call passes it once |
| `reviews` | asks the API server who shows a token, and whether somebody may do something |
| `single_flight` | keeps those answers for seconds, and asks each question once at a time |
"""
