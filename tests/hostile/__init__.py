"""What callers and tenants do to each other, and what keeps each of them served."""
