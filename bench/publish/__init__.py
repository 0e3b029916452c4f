"""From kept runs to pages: ``python -m bench.publish`` writes docs/performance.md and its plots.

Every number on the page comes from a file under ``bench/results``; a test fails while the page
differs from what these files give.
"""
