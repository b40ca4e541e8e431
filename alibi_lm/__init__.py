"""Train short, test long: language models that differ only in how they know positions."""

import os

# OpenMP's threads wait for each other by spinning. If another process needs a core, they spin while
# the thread that they wait for is not running; after so many rounds they now sleep instead. It must
# be set before torch is loaded; what the user has set stays. experiments/reliability has figures.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "750")
