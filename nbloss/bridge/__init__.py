"""Between arrays and the engine."""
