"""``python -m edgelm.lm_eval``: the harness's ``lm_eval`` command, which then knows bundles.

A module of its own, not the one that registers the model: run as ``__main__``, that one would be there twice.
"""

from edgelm.lm_eval import main

main()
