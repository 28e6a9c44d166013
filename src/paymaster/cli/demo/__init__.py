"""The demo: real crowd work paid out through the public API, against sandbox providers.

command   the command line
answers   the work log: read from a file, or generated
payees    valid test destinations
state     what the demo remembers in the data folder, so that it can go on after a crash
world     the processes: database, Paymaster, sandboxes
client    HTTP with retries under the same key
scene     what the stages share
accounts  our accounts at the bank and the wallet provider
story     the stages, in the order in which the money goes
merchants our accounts at WeChat Pay and Alipay
linking   workers link their accounts there
clocks    the environment's clock and the sandbox's, put forward together
rails     the stages over WeChat Pay and Alipay, where they differ
summary   what came out, from the API and from the sandboxes' own books
show      the same for a person, with Rich
"""
