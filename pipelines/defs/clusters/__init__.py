"""Assets that turn features into N, clusters and expert assignments."""
