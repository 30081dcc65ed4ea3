"""Hostile bytes for every decoder of YADTQ: `python -m tests.fuzz --seconds 60` looks for what makes one misbehave.

`targets.py` says per decoder what may come out of it, `mutation.py` makes bytes without any tool, `guided.py` has
atheris make them (guided by coverage), `__main__.py` is the command. tests/unit/test_fuzz.py runs each for a moment.
"""
