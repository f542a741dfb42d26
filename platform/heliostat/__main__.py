"""`python -m heliostat` is `heliostat`."""

from heliostat.cli import main

main()
