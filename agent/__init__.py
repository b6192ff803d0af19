"""The node agent: tells the allocator which sockets are open on its node, and reads nothing else.

`netlink` asks the kernel, `sockets` reads its answers, `ranges` reads and writes the lists of port numbers of the
kernel, `report` finds what changed, `stream` tells it over `http2`, `reserving` keeps given numbers out of
outgoing connections.
"""
