"""Collect traces: the door to `training.collect.collecting`."""

from training.collect.collecting import command

if __name__ == "__main__":
    command()
