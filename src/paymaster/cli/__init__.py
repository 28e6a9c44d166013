"""The command line: thin over use cases and the HTTP API; `--json` prints one object."""
