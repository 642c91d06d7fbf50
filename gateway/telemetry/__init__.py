"""How the gateway is: metrics, logs, health."""
