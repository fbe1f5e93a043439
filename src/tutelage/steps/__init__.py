"""Training steps: ``step(model, batch) -> (loss, metrics)``, one method a file."""
