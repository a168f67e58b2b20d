"""View sets -> WebDataset shards with an index."""
