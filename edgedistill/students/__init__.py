"""Student families, and building any model that a recipe names."""
