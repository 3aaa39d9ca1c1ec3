"""Who runs the cells of a suite: engine, worker processes, launchers."""
