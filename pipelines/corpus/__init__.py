"""What the assets of the corpus share: sources, clusters, experts of documents. Imports `store`."""
