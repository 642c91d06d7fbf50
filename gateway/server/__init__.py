"""The process: everything that it consists of is built here once, and stopped in reverse."""
