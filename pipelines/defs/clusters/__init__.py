"""Assets from vectors to N, clusters and experts."""
