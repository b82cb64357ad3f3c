"""`deemo` with a model that compiles in a moment; everything around it is the real one.

`DEEMO="python tests/faults/deemo_small.py" launch/local.sh 2 …`
"""

import sys

from deemo_jax.cli import main
from deemo_jax.train import step
from tests.small import Bigrams

if __name__ == "__main__":
    setattr(step, "DeemoLlama", Bigrams)  # noqa: B010
    sys.exit(main(sys.argv[1:]))
