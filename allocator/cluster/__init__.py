"""Where nodes and Pods come from.

Rule of the package: a source tells what it sees and decides nothing. It projects objects to the few fields that the
core needs, at once, and keeps no others.
"""
