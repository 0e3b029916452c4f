"""Load that does not wait: ``python -m bench.load``.

arrivals.py   who comes when, from a seed          levels.py     figures of a stretch of time
client.py     one request over HTTP, timed         knee.py       at which rate it ends
generator.py  all of them, on time                 overload.py   what happens beyond
outcomes.py   what became of each                  report.py     the figures, for people
"""
