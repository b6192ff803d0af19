"""The certificates of the gRPC service."""
