"""Makes `actor_stage` importable under every pytest import mode.

To change it: this folder must not become a package: it would shadow the real `actors`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
