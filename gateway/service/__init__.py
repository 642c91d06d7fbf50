"""What a call does: each method of the service reads the request, calls one thing, and writes the response."""
