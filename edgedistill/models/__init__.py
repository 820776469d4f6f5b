"""Any torch module: what it takes and gives, its layers, its weights, its identity."""
