"""`deemo_small` whose first process takes as long over its files as one with 30 GB."""

import sys
import time

from deemo_jax import checkpoint
from deemo_jax.cli import main
from deemo_jax.train import step
from tests.small import Bigrams

write_manifest = checkpoint.write_manifest


def slowly(*arguments):
    time.sleep(40)
    write_manifest(*arguments)


if __name__ == "__main__":
    setattr(step, "DeemoLlama", Bigrams)  # noqa: B010
    setattr(checkpoint, "write_manifest", slowly)  # noqa: B010
    sys.exit(main(sys.argv[1:]))
