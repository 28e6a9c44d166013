"""HTTP to apps, users and operators."""
