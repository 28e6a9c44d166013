"""Payments by bank file in ISO 20022: pain.001 out, pain.002 and camt back.

Messages are read by local element name, because banks use versions and namespaces of their own
(the Swiss pain.002.001.03.ch.02, for one); they are written in the two versions banks take.
"""
