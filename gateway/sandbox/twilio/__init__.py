"""Twilio Studio, simulated."""
