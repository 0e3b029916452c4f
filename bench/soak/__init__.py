"""Half an hour of steady use: ``python -m bench.soak``.

flat.py     whether figures grow       samples.py   what is looked at, every half a minute
report.py   for people                 __main__.py  the traffic, and in order
"""
