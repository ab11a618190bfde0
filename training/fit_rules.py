"""Fit the rules that need no network: the door to `training.learn.rules`."""

from training.learn.rules import command

if __name__ == "__main__":
    command()
