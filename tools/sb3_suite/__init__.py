"""Runs SB3's own tests on LLMDPD: `python -m tools.sb3_suite`.

`source` finds the tests of the pinned version. `adaptation` says what is changed in them and why, and
`changes` changes them. `stand_in` is what they import in place of SB3's algorithms. `run` runs them, and
`plugin` is part of pytest meanwhile. The results are docs/results/sb3_suite.json, of which `page` makes the
tables of docs/reference/sb3_compatibility.md (`make tables`).
"""
