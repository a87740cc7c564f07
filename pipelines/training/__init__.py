"""Helpers that all trainings share: recipe, processes, exports. Imports `store`."""
