"""The SavedModel: written, and read back."""
