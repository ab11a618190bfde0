"""Studies of the training: ablations, cross-validation, speed."""
