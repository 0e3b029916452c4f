"""The text model: one interface, and what implements it.

interface.py   what the runner needs of it
reference.py   transformers' own code: what the others are tested against
fused.py       our own decoder over the same weights; its products are in linear.py, what stands
               between them in operations.py, all layers as one call in native.py, a greedy choice
               without all of the head in screen.py
graphs.py      another one, its decoding steps replayed as CUDA graphs
"""
