"""Indexes of what is held: by node, by port, by candidate set. They change with the claims and with the nodes."""
