"""Attention over paged keys and values: one interface, one file for each way of computing it.

interface.py        what a text model needs of it
layout.py           where a step's tokens go: what every backend needs
shared_prefixes.py  which conversations of a step begin alike
reference.py        plain and slow: gathers every context; what the others are tested against
flat.py             CPU: a step of few rows as one call of our kernel in C
runs.py             CPU: any step as a tree of pieces (pieces.py, piece_kernels.py), read in place
paged.py            GPU: a step as one or two calls (paged_call.py) of a kernel that takes block
                    tables: varlen_kernel.py or triton_kernel.py, chosen by gpu.py
"""
