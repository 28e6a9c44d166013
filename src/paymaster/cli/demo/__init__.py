"""The demo: real crowd work paid out through the public API, against the two sandbox providers.

command   the command line
answers   the work log: read from a file, or generated
payees    valid test destinations
state     what the demo remembers in the data folder, so that it can go on after a crash
world     the processes: database, Paymaster, sandboxes
client    HTTP with retries under the same key
story     the stages, in the order in which the money goes
summary   what came out, from the API and from the sandboxes' own books
show      the same for a person, with Rich
"""
