"""The command line of granet."""
