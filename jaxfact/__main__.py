"""The command line as `python -m jaxfact`."""

from jaxfact.cli.main import main

main()
