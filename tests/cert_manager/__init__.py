"""The product with certificates of cert-manager's real controllers."""
