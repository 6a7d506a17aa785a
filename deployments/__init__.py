"""What differs per model: one YAML file each, and the code that reads and applies them."""
