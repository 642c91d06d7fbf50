"""The settings, and the only readers of the configuration."""
