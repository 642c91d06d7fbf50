"""Who may come in, and how: gRPC and HTTP."""
