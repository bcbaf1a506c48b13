import sys
from pathlib import Path

# The generator is a tool of the repository, not part of the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
