"""Twilio Studio."""
