"""`python -m openqwq`, and `torchrun ... -m openqwq`: the command line."""

import sys

from openqwq.cli.main import main

sys.exit(main())
