"""Where tasks come from: one file per distribution."""
