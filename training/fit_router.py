"""Fit a router from traces: the door to `training.learn.fitting`."""

from training.learn.fitting import command

if __name__ == "__main__":
    command()
