"""The model: the only package that imports torch and transformers.

checkpoint   where a model's files are, and whether it is one that we can serve
processor    text and images → tokens and pixels (for the worker process)
tiles        a picture's size → how it is cut, and how many tokens it has
runner       a plan → sampled tokens (for the engine process); owns the rest:
  loader     weights → model      tower    pixels → features, which vision keeps
  kv_cache   the paged pool       attention  tokens of many conversations in one row
  sampler    logits → tokens
"""
