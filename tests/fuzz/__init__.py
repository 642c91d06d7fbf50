"""What bad input gets: `make fuzz`."""
