"""``python -m bench.fuzz``: a great many hostile inputs, and what became of each kind.

corpus/      pictures: good and odd ones with what a person sees, bad ones with the reason
targets/     what is fed, with what, and what must hold; catalog.py has them by name
dice.py      inputs at random, each from its seed and its number
run.py       feeding one target, in a process of its own
__main__.py  all of them, and their report
"""
