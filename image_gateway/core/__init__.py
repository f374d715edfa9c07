"""The pure half of the gateway: values and decisions, no clock, randomness, IO or logging."""
