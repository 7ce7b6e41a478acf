"""The front door: the command line, and a client for programs."""
