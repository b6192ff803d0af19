"""`python -m tests.crash`: kill -9 of the allocator, again and again, under clients that remember what they were told."""
