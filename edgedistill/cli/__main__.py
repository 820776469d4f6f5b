"""`python -m edgedistill.cli`: the command line, where its script is not on PATH."""

import sys

from edgedistill.cli.main import main

sys.exit(main())
