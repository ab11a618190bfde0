"""Compare methods on the same questions: the door to `training.evaluate.evaluation`."""

from training.evaluate.evaluation import command

if __name__ == "__main__":
    command()
