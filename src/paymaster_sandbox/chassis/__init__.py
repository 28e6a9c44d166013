"""What every simulated provider stands on."""
