"""What autoregressive engines share: the engine, the key-value cache, sampling, and linear layers for CPUs."""
