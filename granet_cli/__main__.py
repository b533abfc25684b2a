"""``python -m granet_cli`` is ``granet``."""

from granet_cli.app import main

main()
