"""What somebody without a credential can do to a port: each attack is a coroutine that runs until it is cancelled."""
