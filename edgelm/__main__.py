"""``python -m edgelm``: the same as ``edgelm``."""

import sys

from edgelm.cli import main

sys.exit(main())
