"""Thousands of open sessions: ``python -m bench.many``.

asking.py   opens them over HTTP and asks each, beside fresh ones      __main__.py  in order
store.py    the table of sessions and its journal, timed alone         report.py    for people
"""
