"""Speech recognition with models of the transformers library: one engine, and an adapter for each family."""
