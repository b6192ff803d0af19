"""Where decisions are made durable.

Rule of the package: one writer. Entries are applied in the order in which they were submitted; a submission is durable
as a whole or not at all, and its future resolves only after that.
"""
