"""The books: accounts, entries made of postings, holds, balances, statements, proof.

`post` (post.py) is the only writer of the books; `recipes` says which posting each business fact
makes; `chart` lists the kinds of accounts.
"""
