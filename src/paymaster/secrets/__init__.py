"""The one key port. Nothing else in the project reads a key.

port          what a store, a key-encryption key and a signer are
environment   secrets from environment variables
file          secrets from a folder, one file a secret
chain         several stores, the first that knows a name answers
local         key encryption and signing with keys taken from a store
generated     makes the local keys of an installation that brings none
sealing       personal data and provider traffic under lock; fingerprints
opening       all of it from the settings
"""
