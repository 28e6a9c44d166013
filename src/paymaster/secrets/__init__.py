"""The one key port. Nothing else in the project reads a key.

port          what a store, a key-encryption key and a signer are
environment   secrets from environment variables
file          secrets from a folder, one file a secret
chain         several stores, the first that knows a name answers
warm          a store over a network as a copy in memory, kept fresh
vault         HashiCorp Vault and OpenBao
aws           AWS Secrets Manager, and what KMS does for us
unwrapped     keys that lie in their store wrapped under a key of KMS
settled       which version of a key of ours is in use
local         key encryption and signing with keys taken from a store
hsm           key encryption and signing inside a token, by PKCS #11
keks          several key-encryption keys as one
signers       who signs with which key, wherever it lies
generated     makes the local keys of an installation that brings none
sealing       personal data and provider traffic under lock; fingerprints
opening       all of it from the settings
"""
