"""The simulation: real code on a real PostgreSQL, with time, order and faults from a seed."""
