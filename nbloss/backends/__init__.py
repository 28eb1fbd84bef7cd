"""The libraries of arrays: a module for each answers what :mod:`nbloss.engine.backend` asks."""
