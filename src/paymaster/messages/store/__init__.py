"""The SQL of messages out, private to the package."""
