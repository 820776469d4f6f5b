"""How right predictions are, and what int8 costs."""
