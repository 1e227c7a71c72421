"""What autoregressive engines share: rows of keys and values, the choice of the next token, and linear layers on CPUs."""
