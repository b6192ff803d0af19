"""The leases of other services as PortLease objects of the cluster, so that they outlive any node.

| module | what it is for |
|---|---|
| `objects` | turns a lease into its PortLease object and back; pure |
| `cache` | the objects that exist, as far as is known |
| `actions` | what has to be done so that objects and leases agree; pure |
| `api` | writes objects to the API server |
| `durability` | makes a lease durable in journal and object |
| `reconciler` | reads the objects at the start, follows them, and does what `actions` says |
"""
