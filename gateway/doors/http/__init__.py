"""The HTTP port: pages for operators, and what backends post by themselves."""
