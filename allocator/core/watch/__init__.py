"""What is looked at again as the cluster changes: plans, refused ports, how full the nodes are."""
