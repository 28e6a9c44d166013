"""Removing an environment so that it can be proven: what was there, that it is gone, who did it.

`certificate` is the signed document, `inventory` what a cell holds at its end, `directory` what
goes and what stays in the shared schema, `remove` the steps in order, `check` what an auditor does
with a certificate.
"""
