"""The local venues live in tests/venues; they are imported by their plain names."""

import sys
from pathlib import Path

VENUES = str(Path(__file__).parents[2] / "venues")
if VENUES not in sys.path:
    sys.path.insert(0, VENUES)
