"""``edgelm serve``: bundles behind the interfaces that apps speak already. Needs ``edgelm[serve]``."""
