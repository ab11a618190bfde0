"""Compare methods on the same questions: the door to `training.evaluate.evaluation`."""

from training.evaluate.evaluation import command

command()
