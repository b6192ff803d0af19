"""The product on real nodes: kubelets, containers and the Service network."""
