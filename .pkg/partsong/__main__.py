"""`python -m partsong` is `partsong`."""

from partsong.simulations.cli import main

main()
