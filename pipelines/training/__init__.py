"""What the trainings of a run share: recipe, processes, exports. Imports `store`."""
