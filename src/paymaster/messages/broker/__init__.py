"""Events out to a message broker: NATS JetStream or RabbitMQ, through one library.

letter    an event as CloudEvents 1.0 JSON, with its subject
publish   one publisher for each cell, in the order of commits; `flight` sends many at once
link      the connection; `nats` and `rabbit` are the two ways to have one
again     everything since a moment once more
store     how far it has come, and what was laid aside
"""
