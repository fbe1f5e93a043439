"""Deployment: the exported graph with its preprocessing inside, and running it without torch."""
