"""The gateway: one gRPC service in front of RapidPro and Twilio Studio."""
