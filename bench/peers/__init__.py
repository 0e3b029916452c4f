"""The same conversations through our engine and through its peers, side by side in one run.

    python -m bench.peers ──JSON lines──▶ ours           (this environment)
                          ──────────────▶ baselines      (this environment: plain transformers)
                          ──────────────▶ vllm_cpu       (an environment of its own)
                          ──────────────▶ genai          (an environment of its own)

Each is a child process on one core with one thread. ``protocol`` and ``child`` are what both sides
share: they and the modules of the peers import nothing of this project but each other, since
another environment has none of its dependencies.
"""
