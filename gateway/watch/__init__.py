"""What a watcher reads: recorded changes, then new ones."""
