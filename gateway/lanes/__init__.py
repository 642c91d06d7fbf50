"""The sending and the following of each backend."""
