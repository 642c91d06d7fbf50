"""PostgreSQL as the engine of a store. Needs the extra `postgres`, so nothing imports it before it is asked for."""
