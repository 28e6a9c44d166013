"""Rails: ways of paying, one folder each, behind the interface of `base`.

A rail is a pure translator: it knows nothing of the books or the database. A new one is a folder
here (or an entry point in the group `paymaster.rails`) that passes the conformance suite.
"""
