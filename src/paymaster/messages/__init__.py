"""Who is told: webhooks to the app's servers, email to earners and operators.

catalogue   every type of event with its payload; `fields` says what a payload holds
event       an event of the outbox as the outside sees it
endpoints   where an app wants to be told; their secrets, rotation, states
fanout      what each event owes to whom, once
send        deliveries, with retries over three days
replay      old events again
targets     which addresses may be called at all
broker      all events to NATS or RabbitMQ
mail        letters; `letters` says which event makes which
"""
