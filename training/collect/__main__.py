"""Collect traces: the door to `training.collect.collecting`."""

from training.collect.collecting import command

command()
