"""The program: how its parts are put together, what it listens on, how it starts and how it stops."""
