"""What runs: the gRPC server, the workers of the chains, the command line."""
