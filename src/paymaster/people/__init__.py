"""Who earns and who calls: users, the destinations of their money, API keys.

The directory in `control` says in which cell a user lives; everything else about the user stays in
that cell. What names a person or an account is stored sealed only.
"""
