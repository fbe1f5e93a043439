"""What reaches a deployed model, against what it was made from. Imports no torch."""
