"""Runs the tests with the settings of the command."""

from tf_realnvp import runtime

runtime.configure()
