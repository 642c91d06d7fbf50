"""Who calls, what each may do, and how much of the gateway each may take."""
