"""Kernels in C for what decoding on a CPU spends its time on, beside torch's own.

build.py      compiles the sources, once for each kind of processor (`python -m …native.build`)
library.py    the one that this processor can run, as functions of tensors; or why there is none
vectors.h     one source for every width of vector
functions.h   e^x and the like of vectors
kernels.h     what the files below call of one another
linear.c      few rows times a weight: linear.h by vectors, tiles.h by Intel's AMX
attend.c      a step's attention in one layer, or few queries over a run of keys: attend.h
glue.c        norm, rotation, gate and a vision tower's activation: glue.h
decode.c      all layers of a step, by the kernels above: decode.h
screen.c      which tokens may have the largest logit

Without a compiler nothing is missing: torch's products do the same, in more time. Why C, and what
it gains: docs/decisions/0031-kernels-in-c.md.
"""
