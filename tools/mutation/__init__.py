"""Mutation testing: does a test fail when the code is wrong? Run by `make mutants`."""
