"""The leases of other services as PortLease objects of the cluster, so that they outlive any node.

`objects` and `tidy` are pure; `store` talks to the API server; `journal` puts it between the engine and its journal;
`keeper` reads back at the start, follows, and tidies up.
"""
