"""The pure core: what is asked, what is held, what is decided.

Rule of the package: no I/O, no clock, no chance, no threads. Time and ids are arguments; every function gives the same
answer for the same arguments and the same history.
"""
