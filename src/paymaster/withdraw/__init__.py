"""A user asks for their money: the request, its whole life, and every way of giving it back.

Read `machine.py` first: it is the table that the rest of the project obeys.
"""
