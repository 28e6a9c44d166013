"""The SQL of earn, private to it: what is offered (control); events, states, rewards (cell)."""
