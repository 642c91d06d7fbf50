"""RapidPro, simulated."""
