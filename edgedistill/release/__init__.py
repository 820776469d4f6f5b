"""May it ship, and in what: the gate and the bundle."""
