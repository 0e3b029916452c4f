"""The record of a session: what it is, how long it lives, and the journal that keeps it.

Knows nothing of engines, HTTP or models. Everything a device holds can be rebuilt from here.
"""
