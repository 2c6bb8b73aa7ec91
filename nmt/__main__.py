"""``python -m nmt`` is ``nmt``. This is the one place of the library that knows the command line."""

from __future__ import annotations

import sys

from nmt_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
