"""The adapters there are, by kind. A new backend is one file, one line here, and one table of cases."""
