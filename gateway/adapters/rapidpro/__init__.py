"""RapidPro and TextIt."""
