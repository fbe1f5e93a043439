"""A local page on which a person looks at what the machine believed, and corrects it."""
